"""Planted faults: each breaks one promise of the library, to show that the scenarios find it.

`PLANTS` maps the name of each fault to the scenario that has to find it, and to a context manager that plants it.
"""

import functools
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any
from unittest import mock

from mediator.distributed.inbox import Admission, Start
from mediator.distributed.inbox.circuits import Circuits
from mediator.distributed.inbox.processing import Attempt, Processing
from mediator.distributed.outbox import OutboxBatch, OutboxRelay, PublishResult
from mediator.errors import CommitOutcomeUnknownError, DatabaseUnavailableError
from mediator.testing.memory import inbox
from tests.interleavings.applications import Application
from tests.interleavings.scenarios import run
from tests.interleavings.servers import Inbox, OpenedDeliveries, Parking, UnitOfWork

Plant = AbstractContextManager[Any]


def _replaced(owner: Any, name: str, make: Callable[[Any], Any]) -> Callable[[], Plant]:
    """Return a function that plants `make(original)` in the place of a method."""
    return lambda: mock.patch.object(owner, name, make(getattr(owner, name)))


def _acknowledging_first(start: Any) -> Any:
    @functools.wraps(start)
    async def planted(self: Processing, *args: Any) -> Any:
        await self._delivery.ack()
        return await start(self, *args)

    return planted


def _admitting_all_at_once(_insert: Any) -> Any:
    async def planted(
        self: Inbox, unit_of_work: Any, consumer: str, source: str, event_id: str, /, **_: Any
    ) -> Admission:
        """Neither wait for another transaction that records the event, nor look for it again at the commit."""
        if await self.contains(consumer, source, event_id):
            return Admission.DUPLICATE
        unit_of_work._inbox.add((consumer, source, event_id))
        self._database.recording.setdefault((consumer, source, event_id), (unit_of_work, mock.MagicMock()))
        return Admission.NEW

    return planted


def _counting_nothing(_start: Any) -> Any:
    async def planted(self: Inbox, consumer: str, source: str, event_id: str, _limit: int, /, **_: Any) -> Start:
        taken = await self.contains(consumer, source, event_id)
        return Start(0, taken=True) if taken else Start(1)

    return planted


def _settling_all(_publish_batch: Any) -> Any:
    async def planted(self: OutboxRelay, batch: OutboxBatch) -> Sequence[PublishResult]:
        results = await self._publish(batch.events)
        await batch.settle([result.event.id for result in results])
        return results

    return planted


def _staging_outside(stage: Any) -> Any:
    async def planted(self: UnitOfWork, events: Any) -> None:
        await stage(self, events)
        for each in events:
            self.database.put(each.event)
        self._staged = []
        self.database.woken.set()

    return planted


def _doing_nothing(_method: Any) -> Any:
    async def planted(*_args: Any, **_options: Any) -> None: ...

    return planted


def _always_alone(start: Any) -> Any:
    async def planted(self: Inbox, *args: Any, alone: bool = False) -> Start:
        return await start(self, *args, alone=True)

    return planted


def _telling_a_rollback(commit_transaction: Any) -> Any:
    async def planted(self: UnitOfWork, transaction_id: str) -> None:
        try:
            await commit_transaction(self, transaction_id)
        except CommitOutcomeUnknownError as error:
            raise DatabaseUnavailableError("the database", "it did not answer") from error

    return planted


def _following_nobody(take: Any) -> Any:
    async def planted(self: Parking, unit_of_work: Any, number: int, /, *, release_next: bool = False) -> Any:
        return await take(self, unit_of_work, number)

    return planted


def _counting_no_later_start(_start: Any) -> Any:
    async def planted(self: Parking, event: Any, _limit: int, /, *, alone: bool = False) -> Start:
        return Start((await self.get(event.number)).attempts + 1)

    return planted


def _leaving_the_inbox(park: Any) -> Any:
    async def planted(self: Parking, event: Any, /, **options: Any) -> Any:
        parked = await park(self, event, **options)
        self._database.inbox.discard((event.consumer, event.source, event.event_id))
        return parked

    return planted


def _terminating_without_parking(_park: Any) -> Any:
    async def planted(self: Processing, *_args: Any) -> Any:
        return self._terminate

    return planted


def _letting_nothing_go(_let_go: Any) -> Any:
    async def planted(self: Parking, _consumer: str, _held_by: str, /, **_: Any) -> int:
        return 0

    return planted


@contextmanager
def _unordered() -> Iterator[None]:
    """Consume without order where the promise is order."""
    original = Application.consumer

    def consumer(self: Application, mediator: Any) -> Any:
        ordering, self.ordering = self.ordering, "none"
        try:
            return original(self, mediator)
        finally:
            self.ordering = ordering

    with mock.patch.object(Application, "consumer", consumer):
        yield


PLANTS: dict[str, tuple[str, Callable[[], Plant]]] = {
    "consume without order": ("keys", _unordered),
    "acknowledge before the commit": ("keys", _replaced(Processing, "_start", _acknowledging_first)),
    "admit an event to two transactions": ("keys", _replaced(Inbox, "insert", _admitting_all_at_once)),
    "count no start": ("deaths", _replaced(Inbox, "start", _counting_nothing)),
    "park no successor": ("parking", lambda: mock.patch.object(inbox, "is_key_parked", return_value=False)),
    "settle what was not stored": ("relays", _replaced(OutboxRelay, "_publish_batch", _settling_all)),
    "stage outside the transaction": ("relays", _replaced(UnitOfWork, "stage", _staging_outside)),
    "replay whatever is before it": ("parking", _replaced(Parking, "_check_head", _doing_nothing)),
    "take no start back": ("stops", _replaced(Attempt, "take_back", _doing_nothing)),
    "start a suspect beside others": ("deaths", _replaced(Inbox, "start", _always_alone)),
    "tell an unknown outcome as a rollback": (
        "relays",
        _replaced(UnitOfWork, "commit_transaction", _telling_a_rollback),
    ),
    "release no follower": ("later", _replaced(Parking, "take", _following_nobody)),
    "count no later start": ("later", _replaced(Parking, "start", _counting_no_later_start)),
    "set aside without an inbox row": ("later-unordered", _replaced(Parking, "park", _leaving_the_inbox)),
    "let no held event go": ("circuits", _replaced(Parking, "let_go", _letting_nothing_go)),
    "probe no held event": ("circuits", lambda: mock.patch.object(Circuits, "due_probes", return_value=())),
    "pull no more after a pause": ("circuits", lambda: mock.patch.object(OpenedDeliveries, "resume")),
    "terminate without parking": ("parking", _replaced(Processing, "_park", _terminating_without_parking)),
}


async def planted_run(plant: str, scenario: str, *, traces: list[str] | None = None) -> None:
    """Run a scenario with a planted fault."""
    with PLANTS[plant][1]():
        await run(scenario, traces=traces)
