"""Desk: sends application forms to the enrollment application, one after another, and reports on each.

A line of JSON on standard output for each command says what became of it. The process leaves when all events are with
the broker. Started again after a crash, it goes on with the first form that was not reported.
"""

import argparse
import asyncio
import json
import random
import sys

import structlog

from examples.university.enrollment.container import create
from examples.university.enrollment.messages import EnrollStudent, FindStudent
from mediator import Mediator
from mediator.dependency_injector import lifespan


def fill_in(number: int, seed: int) -> EnrollStudent:
    """The form of this number, the same however often it is asked for. Some cannot succeed."""
    name = random.Random(f"{seed}-{number}").choice(["Ada", "Blaise", "Carl", "David", "Emmy"])
    if number % 30 == 0:
        return EnrollStudent(number, name, programme="alchemy")  # refused by the database at COMMIT
    if number % 15 == 0:
        return EnrollStudent(number, name * 100_000)  # its event is too large to be stored
    return EnrollStudent(number, name, fee_paid=number % 10 != 0)  # refused by the handler


async def process(mediator: Mediator, form: EnrollStudent) -> dict[str, object]:
    try:
        await mediator.send(form)
    except Exception as error:  # whatever it is, the form was refused and the desk goes on
        return {"number": form.number, "outcome": "rolled back", "error": type(error).__name__}
    return {"number": form.number, "outcome": "committed"}


async def work(first: int, last: int, seed: int) -> None:
    async with lifespan(create(), workers=True) as container:
        mediator = container.mediator()
        for number in range(first, last + 1):
            # A process killed while it sent the first form cannot know how that ended. The database does.
            known = number == first and await mediator.send(FindStudent(number)) is not None
            report = (
                {"number": number, "outcome": "committed", "recovered": True}
                if known
                else await process(mediator, fill_in(number, seed))
            )
            print(json.dumps(report), flush=True)
        outbox = container.outbox()
        while await outbox.pending():  # noqa: ASYNC110  (the relay may run in another process)
            await asyncio.sleep(0.05)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--first", type=int, default=1)
    parser.add_argument("--last", type=int, required=True)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    structlog.configure(logger_factory=structlog.PrintLoggerFactory(sys.stderr))  # standard output is for reports
    asyncio.run(work(arguments.first, arguments.last, arguments.seed))


if __name__ == "__main__":
    main()
