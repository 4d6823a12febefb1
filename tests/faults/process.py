"""One application in a separate process, which can kill itself at a failpoint.

`python -m tests.faults.process shop --orders 0 20 ...` sends orders and stops once its outbox is empty;
`python -m tests.faults.process warehouse ...` consumes until it is terminated, `ordered` does so in order, with parking,
and `replay` replays what is parked.
"""

import argparse
import asyncio
import contextlib
import logging
import signal
import sys
from collections.abc import Sequence
from typing import Any

import structlog

from mediator.dependency_injector import lifespan
from mediator.distributed.inbox import ParkedReplay
from mediator.distributed.parking import ParkedFilter
from mediator.testing.failpoints import failpoint, kill
from tests.end_to_end.shop.application import PlaceOrder, ShopContainer
from tests.end_to_end.tables import configured
from tests.end_to_end.warehouse.application import OrderedWarehouseContainer, WarehouseContainer

CONTAINERS = {
    "shop": ShopContainer,
    "warehouse": WarehouseContainer,
    "ordered": OrderedWarehouseContainer,
    "replay": OrderedWarehouseContainer,
}


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    parser.add_argument("application", choices=list(CONTAINERS))
    parser.add_argument("--database", required=True)
    parser.add_argument("--nats", required=True)
    parser.add_argument("--kill-at", default="")
    parser.add_argument("--orders", nargs=2, type=int, default=(0, 0), metavar=("FIRST", "END"))
    parser.add_argument("--place", nargs="+", default=(), metavar="CUSTOMER/NUMBER")
    parser.add_argument("--writers", type=int, default=1)
    return parser.parse_args()


async def place(container: Any, orders: list[PlaceOrder], writers: int) -> None:
    mediator = container.mediator()
    left = iter(orders)

    async def write() -> None:
        for order in left:
            await mediator.send(order)

    async with asyncio.TaskGroup() as group:
        for _ in range(writers):
            group.create_task(write())
    while await container.outbox().pending():
        await asyncio.sleep(0.02)


def numbered(first: int, end: int) -> list[PlaceOrder]:
    return [PlaceOrder(str(number), customer=f"customer-{number % 3}") for number in range(first, end)]


def named(orders: Sequence[str]) -> list[PlaceOrder]:
    parts = [order.partition("/") for order in orders]
    return [PlaceOrder(number, customer=customer) for customer, _, number in parts]


async def main(options: argparse.Namespace) -> None:
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    container = configured(CONTAINERS[options.application], options.database, options.nats)
    with contextlib.ExitStack() as stack:
        if options.kill_at:
            stack.enter_context(failpoint(options.kill_at, kill))
        async with lifespan(container, workers=options.application != "replay", relay_elsewhere=True):
            if options.application == "replay":
                replay = ParkedReplay(container.parking(), [container.consumer()])
                print([result.outcome async for result in replay.run(ParkedFilter())])  # noqa: T201
                return
            if options.application == "shop":
                await place(container, [*numbered(*options.orders), *named(options.place)], options.writers)
            else:
                await stop.wait()


if __name__ == "__main__":
    structlog.configure(
        wrapper_class=structlog.make_filtering_bound_logger(logging.INFO),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
    )
    asyncio.run(main(parsed()))
