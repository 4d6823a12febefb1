"""A writer process: sends random commands at a steady rate until it is terminated or killed.

`python -m tests.faults.campaign.writer --seed 1 --rate 20 --keys 40`
"""

import argparse
import asyncio
import itertools
import os
import random
import sys
from collections.abc import Iterator
from functools import partial
from typing import Any

from mediator.errors import MessageTimeoutError
from tests.faults.campaign.application import Acknowledge, Book, RolledBackError
from tests.faults.campaign.containers import LedgerContainer, configured
from tests.faults.campaign.troubles import Journal, Outcome, outcome_of
from tests.faults.scenarios.writer import names_of_keys, run

PLANS = (
    (8, ("event",)),
    (4, ("update", "event")),
    (3, ("event", "pause", "event", "note")),
    (3, ("note",)),
    (2, ("new", "event")),
    (1, ("new-fail", "event")),
    (1, ("new", "event", "fail")),
    (2, ("event", "nest")),
    (2, ("event", "nest-fail", "event")),
    (2, ("event", "join")),
    (1, ("event", "suppress", "note")),
    (2, ("event", "pause", "fail")),
    (1, ("event", "join-fail")),
)
"""The steps of commands with their weights. On SQLite, a transaction inside another one must come first."""
CANCELLED = 0.1
"""The share of commands that their sender cancels at a random time."""
LIMITED = 0.1
"""The share of commands with a time limit, which the pipeline cancels."""
ACKNOWLEDGED = 0.25
_LONGEST_RUN = 0.04
_RETRY_SECONDS = 0.2
TASKS = 4


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    parser.add_argument("--seed", required=True)
    parser.add_argument("--rate", type=float, default=20.0, help="commands a second")
    parser.add_argument("--keys", type=int, default=40)
    return parser.parse_args()


def commands(rng: random.Random, writer: str, keys: list[str]) -> Iterator[Book]:
    """Yield the commands of one process; some have a time limit."""
    weights, plans = zip(*PLANS, strict=True)
    for number in itertools.count():
        (steps,) = rng.choices(plans, weights)
        never = any(step in ("fail", "join-fail") for step in steps)
        within = rng.uniform(0.001, _LONGEST_RUN) if rng.random() < LIMITED else None
        yield Book(rng.choice(keys), f"{writer}/{number}", steps, never, within=within)


async def write(container: Any, left: Iterator[Book], rng: random.Random, pause: float) -> None:
    """Send the commands, and record the outcome that each sender learns, for comparison with the database."""
    journal: Journal = container.journal()
    for command in left:
        limit = rng.uniform(0.001, _LONGEST_RUN) if rng.random() < CANCELLED else None
        outcome = await _send(container, command, limit)
        journal.tell(command.name, outcome)
        if outcome == "committed" and rng.random() < ACKNOWLEDGED:
            await _send(container, Acknowledge(command.name), None)
        await asyncio.sleep(rng.uniform(0, 2 * pause))


async def _send(container: Any, command: Book | Acknowledge, limit: float | None) -> Outcome:
    """Send a command, and return the outcome that its sender learned."""
    told: BaseException | None = None
    try:
        async with asyncio.timeout(limit):
            try:
                await container.mediator().send(command)
            except BaseException as error:
                told = error
                raise
    except TimeoutError:
        pass
    except Exception as error:
        if outcome_of(error) == "failed" and not isinstance(error, RolledBackError | MessageTimeoutError):
            print("failed", command.name, repr(error), file=sys.stderr, flush=True)  # noqa: T201  (for who looks)
            await asyncio.sleep(_RETRY_SECONDS)
    return outcome_of(told)


async def write_all(container: Any, options: argparse.Namespace) -> None:
    writer = f"{options.seed}.{os.getpid()}"
    rng = random.Random(writer)
    left = commands(rng, writer, names_of_keys(options.keys))
    async with asyncio.TaskGroup() as group:
        for _ in range(TASKS):
            group.create_task(write(container, left, rng, TASKS / options.rate))


if __name__ == "__main__":
    asyncio.run(run(configured(LedgerContainer), partial(write_all, options=parsed())))
