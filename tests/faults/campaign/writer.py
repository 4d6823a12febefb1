"""A writer process: sends random commands, at a steady pace, until it is terminated or killed.

`python -m tests.faults.campaign.writer --seed 1 --rate 20 --keys 40`
"""

import argparse
import asyncio
import contextlib
import itertools
import os
import random
from collections.abc import Iterator
from functools import partial
from typing import Any

import structlog

from tests.faults.campaign.application import Acknowledge, Book, RolledBackError
from tests.faults.campaign.containers import LedgerContainer, configured
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
"""What a command may consist of, and how often it comes. On SQLite a transaction inside another one has to come first."""
CANCELLED = 0.1
"""Which share of the commands is cancelled somewhere on its way."""
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
    """The commands of one process."""
    weights, plans = zip(*PLANS, strict=True)
    for number in itertools.count():
        (steps,) = rng.choices(plans, weights)
        never = any(step in ("fail", "join-fail") for step in steps)
        yield Book(rng.choice(keys), f"{writer}/{number}", steps, never)


async def write(container: Any, left: Iterator[Book], rng: random.Random, pause: float) -> None:
    """Send them; what becomes of each is for the database to tell."""
    log = structlog.get_logger("writer")
    for command in left:
        limit = rng.uniform(0, _LONGEST_RUN) if rng.random() < CANCELLED else None
        try:
            with contextlib.suppress(RolledBackError):
                async with asyncio.timeout(limit):
                    await container.mediator().send(command)
                if not command.never and rng.random() < ACKNOWLEDGED:
                    await container.mediator().send(Acknowledge(command.name))
        except TimeoutError:
            pass
        except Exception as error:
            log.warning("failed", command=command.name, error=type(error).__name__)
            await asyncio.sleep(_RETRY_SECONDS)
        await asyncio.sleep(rng.uniform(0, 2 * pause))


async def write_all(container: Any, options: argparse.Namespace) -> None:
    writer = f"{options.seed}.{os.getpid()}"
    rng = random.Random(writer)
    left = commands(rng, writer, names_of_keys(options.keys))
    async with asyncio.TaskGroup() as group:
        for _ in range(TASKS):
            group.create_task(write(container, left, rng, TASKS / options.rate))


if __name__ == "__main__":
    asyncio.run(run(configured(LedgerContainer), partial(write_all, options=parsed())))
