"""A writer process: sends commands from several tasks, until it has sent enough or is terminated.

`python -m tests.faults.scenarios.writer --number 0 --tasks 8 --size 1 --share 1000 --seed 1`
"""

import argparse
import asyncio
import itertools
import random
import signal
from collections.abc import Callable, Coroutine, Iterator
from functools import partial
from typing import Any

from mediator.dependency_injector import lifespan
from mediator.errors import OutboxFullError
from tests.faults.scenarios.application import Move, RolledBackError, WriterContainer, configured

_FAILING = 0.02
_INSERTING = 1 / 3
_SINGLE = 0.3
"""The share of commands that raise one event if most commands raise many."""


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    parser.add_argument("--number", type=int, default=0, help="of this process")
    parser.add_argument("--tasks", type=int, default=8)
    parser.add_argument("--size", type=int, default=1, help="events of most commands")
    parser.add_argument("--share", type=int, default=0, help="events in all; 0 until terminated")
    parser.add_argument("--keys", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--flaky", type=float, default=0.0, help="the share of events that fail twice")
    return parser.parse_args()


def names_of_keys(count: int) -> list[str]:
    return [f"key-{number}" for number in range(count)]


def commands(options: argparse.Namespace) -> Iterator[Move]:
    """Yield the commands of one process: a third of them update no row of the key, and a few of them fail."""
    rng, keys, left = random.Random(f"{options.seed} {options.number}"), names_of_keys(options.keys), options.share
    for number in itertools.count():
        size = 1 if rng.random() < _SINGLE else options.size
        size = min(size, left) if options.share else size
        fails = rng.random() < _FAILING
        with_row = size == 1 and rng.random() > _INSERTING
        action = "flaky" if options.flaky and rng.random() < options.flaky else ""
        yield Move(tuple(rng.choices(keys, k=size)), options.number, number, with_row, action, fails=fails)
        left -= 0 if fails else size
        if options.share and left <= 0:
            return


async def write(container: Any, left: Iterator[Move]) -> None:
    for command in left:
        while True:
            try:
                await container.mediator().send(command)
            except OutboxFullError:
                await asyncio.sleep(0.1)
                continue
            except RolledBackError:
                pass
            break


async def write_all(container: Any, options: argparse.Namespace) -> None:
    left = commands(options)
    async with asyncio.TaskGroup() as group:
        for _ in range(options.tasks):
            group.create_task(write(container, left))


async def run(container: Any, work: Callable[[Any], Coroutine[Any, Any, None]]) -> None:
    """Run a writer until it has sent enough or the process is terminated."""
    async with lifespan(container, relay_elsewhere=True):
        writing = asyncio.create_task(work(container))
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, writing.cancel)
        await asyncio.wait((writing,))
        if not writing.cancelled():
            writing.result()


if __name__ == "__main__":
    asyncio.run(run(configured(WriterContainer), partial(write_all, options=parsed())))
