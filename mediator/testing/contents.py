"""InMemoryOutboxContents: what waits and is archived in an `InMemoryDatabase`."""

from collections.abc import Iterator, Sequence

from mediator.distributed.cloudevents import CloudEvent
from mediator.distributed.outbox_contents import OutboxContents, OutboxCount, OutboxFilter, OutboxRecord, Place
from mediator.errors import OutboxEventNotFoundError
from mediator.testing.database import InMemoryDatabase


class InMemoryOutboxContents(OutboxContents):
    """Reads one database; see `InMemoryOutbox.contents`."""

    def __init__(self, database: InMemoryDatabase) -> None:
        self._database = database

    async def find(self, which: OutboxFilter, /, *, after: int = 0, limit: int = 100) -> Sequence[OutboxRecord]:
        """See `OutboxContents.find`."""
        return [record for record, _ in self._all() if record in which and record.sequence > after][:limit]

    async def count(self, which: OutboxFilter, /) -> OutboxCount:
        """See `OutboxContents.count`."""
        found = [record for record, _ in self._all() if record in which]
        archived = which.place == "archived"
        times = [each.moved_at if archived and each.moved_at else each.time.timestamp() for each in found]
        return OutboxCount(len(found), min(times, default=None))

    async def get(self, event_id: str, /) -> tuple[OutboxRecord, CloudEvent]:
        """See `OutboxContents.get`."""
        for record, event in self._all():
            if event.id == event_id:
                return record, event
        raise OutboxEventNotFoundError(event_id)

    async def archived(self, sequences: Sequence[int], /) -> Sequence[CloudEvent]:
        """See `OutboxContents.archived`."""
        return [event for record, event in self._all() if record.place == "archived" and record.sequence in sequences]

    def _all(self) -> Iterator[tuple[OutboxRecord, CloudEvent]]:
        database = self._database
        database.check_available()
        for sequence, event in enumerate(database.outbox, 1):
            yield _record("waiting", database.places.get(event.id, sequence), event, None), event
        for sequence, (at, event) in enumerate(database.delayed, 1):
            yield _record("delayed", sequence, event, at), event
        for event in database.archive:
            sequence, at = database.archived[event.id]
            yield _record("archived", sequence, event, at), event


def _record(place: Place, sequence: int, event: CloudEvent, moved_at: float | None) -> OutboxRecord:
    size = len(event.data)
    return OutboxRecord(place, sequence, event.id, event.type, event.time, event.partitionkey, size, moved_at)
