"""Workers: relays and consumers that run until they are done, or until a fault ends them."""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any, Literal

from mediator.distributed.outbox import OutboxFilter
from mediator.distributed.parking import ParkedFilter
from mediator.errors import DatabaseUnavailableError
from mediator.testing.failpoints import Failure, failpoint
from tests.contracts.model_events.application import GROUP, Application, Applied, Made
from tests.contracts.model_events.reference import Seen

Kind = Literal["error", "database", "cancel", "crash"]


@dataclass(frozen=True)
class Fault:
    """The fault that occurs when a failpoint is reached for the first time.

    Attributes:
        kind: An error, an error of the database, a regular stop, or the death of the process at that failpoint.
    """

    place: str
    kind: Kind


class Workers:
    """Runs relays and consumers. Each run makes new ones.

    Args:
        application: The application of the workers.
        patience: The longest run, in seconds of the loop.
    """

    def __init__(self, application: Application, patience: float) -> None:
        self._application = application
        self._patience = patience

    async def relay(self, count: int, fault: Fault | None = None) -> None:
        """Relay until no sendable event waits."""
        relays = [self._application.relay(grace=_grace(fault)) for _ in range(count)]
        await self._run([relay.run() for relay in relays], self._is_relayed, fault)

    async def consume(self, count: int, fault: Fault | None = None) -> None:
        """Consume until everything in the stream is settled."""
        consumers = [self._application.consumer(grace=_grace(fault)) for _ in range(count)]
        await self._run([consumer.run() for consumer in consumers], self._is_consumed, fault)

    async def _run(
        self, work: list[Coroutine[Any, Any, None]], is_done: Callable[[], Awaitable[bool]], fault: Fault | None
    ) -> None:
        tasks = [asyncio.ensure_future(each) for each in work]
        try:
            with ExitStack() as armed:
                if fault is not None:
                    armed.enter_context(failpoint(fault.place, action_of(fault, tasks)))
                await self._wait(tasks, is_done)
                for task in tasks:
                    task.cancel()
                await asyncio.wait(tasks)
        finally:
            for task in tasks:
                task.cancel()
        for task in tasks:
            assert task.cancelled(), task.exception()

    async def _wait(self, tasks: list["asyncio.Future[None]"], is_done: Callable[[], Awaitable[bool]]) -> None:
        deadline = asyncio.get_running_loop().time() + self._patience
        pause = 0.001
        while asyncio.get_running_loop().time() < deadline and not all(task.done() for task in tasks):
            await asyncio.sleep(pause)
            pause = min(2 * pause, self._patience / 10)
            if await is_done():
                return

    async def _is_relayed(self) -> bool:
        try:
            return (await self._application.storage.outbox.contents.count(OutboxFilter("waiting"))).events == 0
        except DatabaseUnavailableError:
            return False

    async def _is_consumed(self) -> bool:
        stored = sum(event.type.startswith(Made.event_type) for event in self._application.broker.events)
        return len(self._application.broker._acknowledged[GROUP]) >= stored


def _grace(fault: Fault | None) -> float:
    return 0.0 if fault is not None and fault.kind == "crash" else 10.0


def action_of(fault: Fault, tasks: list["asyncio.Future[None]"]) -> Callable[[], Awaitable[None]]:
    if fault.kind == "error":
        return Failure(RuntimeError("injected"))
    if fault.kind == "database":
        return Failure(DatabaseUnavailableError("the model", "injected"))

    async def stop() -> None:
        for task in tasks:
            task.cancel()
        if fault.kind == "crash":
            await asyncio.Event().wait()  # the worker makes no progress

    return stop


async def look(application: Application) -> Seen:
    """Return all events, sorted by place."""
    storage, labels = application.storage, application.labels
    contents = storage.outbox.contents
    placed: list[str] = []
    for place in ("waiting", "delayed"):
        placed += [each.id for each in await contents.find(OutboxFilter(place), limit=1000)]
    archived = [each.id for each in await contents.find(OutboxFilter("archived"), limit=1000)]
    parked = await storage.parking.find(ParkedFilter(), limit=1000)
    placed += archived + [each.event_id for each in parked if each.direction == "out"]

    def numbers(ids: list[str], kind: type[Made]) -> list[int]:
        return [labels[each][1] for each in ids if labels[each][0] is kind]

    stream = [event.id for event in application.broker.events]
    return Seen(
        rows=await storage.read("made"),
        stream=numbers(stream, Made),
        applied=await storage.read("applied"),
        parked=numbers([each.event_id for each in parked if each.direction == "in"], Made),
        placed=numbers(placed, Made),
        archived=numbers(archived, Made),
        followed=numbers(stream, Applied),
        followed_placed=numbers(placed, Applied),
    )
