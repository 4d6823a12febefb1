"""One application in a process of its own, which can be told to die at a failpoint.

`python -m tests.faults.process shop --orders 0 20 ...` sends orders and stops once its outbox is empty;
`python -m tests.faults.process warehouse ...` consumes until it is terminated.
"""

import argparse
import asyncio
import contextlib
import logging
import signal
import sys
from typing import Any

import structlog

from mediator.dependency_injector import lifespan
from mediator.testing.failpoints import failpoint, kill
from tests.end_to_end.shop.application import PlaceOrder, ShopContainer
from tests.end_to_end.tables import configured
from tests.end_to_end.warehouse.application import WarehouseContainer


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    parser.add_argument("application", choices=["shop", "warehouse"])
    parser.add_argument("--database", required=True)
    parser.add_argument("--nats", required=True)
    parser.add_argument("--kill-at", default="")
    parser.add_argument("--orders", nargs=2, type=int, default=(0, 0), metavar=("FIRST", "END"))
    parser.add_argument("--writers", type=int, default=1)
    return parser.parse_args()


async def place(container: Any, first: int, end: int, writers: int) -> None:
    mediator = container.mediator()
    numbers = iter(range(first, end))

    async def write() -> None:
        for number in numbers:
            await mediator.send(PlaceOrder(str(number), customer=f"customer-{number % 3}"))

    async with asyncio.TaskGroup() as group:
        for _ in range(writers):
            group.create_task(write())
    while await container.outbox().pending():
        await asyncio.sleep(0.02)


async def main(options: argparse.Namespace) -> None:
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    kind = ShopContainer if options.application == "shop" else WarehouseContainer
    container = configured(kind, options.database, options.nats)
    with contextlib.ExitStack() as stack:
        if options.kill_at:
            stack.enter_context(failpoint(options.kill_at, kill))
        async with lifespan(container, workers=True):
            if options.application == "shop":
                await place(container, *options.orders, options.writers)
            else:
                await stop.wait()


if __name__ == "__main__":
    structlog.configure(
        wrapper_class=structlog.make_filtering_bound_logger(logging.INFO),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
    )
    asyncio.run(main(parsed()))
