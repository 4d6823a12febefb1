"""Verification: compares an archive, id by id, with the broker's streams, and can publish missing events again."""

import hashlib
import time
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Literal

from mediator.distributed.outbox.contents import OutboxContents, OutboxFilter, OutboxRecord
from mediator.distributed.outbox.publisher import HeldStream, StreamContents
from mediator.distributed.outbox.republishing import Republishing

CHUNK = 250_000
"""The number of ids that are compared at a time. This many ids take 21 MB; a million would take 83 MB."""

_PAGE = 5000
_MARGIN = 60.0
"""Seconds by which clocks may differ. An event that expires within this time is not published again."""
_SKIP_MARGIN = 3600.0
"""The reading of a stream begins this many seconds before the oldest event of the chunk was raised."""

Absence = Literal["missing", "expired", "dropped", "refilled", "failed"]


@dataclass(frozen=True, slots=True)
class Absent:
    """An archived event that its stream did not hold.

    Attributes:
        record: The event.
        stream: The name of its stream.
        outcome: `missing`: the broker has lost the event. `expired`: the stream no longer keeps events of this age.
            `dropped`: the stream deleted the event to make room. `refilled`: the missing event was published again, and
            is in the stream now. `failed`: the event was published again, but is still missing.
    """

    record: OutboxRecord
    stream: str
    outcome: Absence


@dataclass(slots=True)
class _Chunk:
    """A part of an archive, with a digest of each event (see `_digest`).

    Attributes:
        after: The sequence after which the part begins.
        ids: For each domain, the digests of the events that were not found in the stream so far.
        oldest: For each domain, the earliest time at which an event of the chunk may have been stored, as epoch seconds.
        streams: For each domain, the state of the stream before the stream was read.
    """

    after: int
    last: int = 0
    events: int = 0
    ids: dict[str, set[bytes]] = field(default_factory=dict[str, set[bytes]])
    oldest: dict[str, float] = field(default_factory=dict[str, float])
    streams: dict[str, HeldStream | None] = field(default_factory=dict[str, HeldStream | None])

    def add(self, record: OutboxRecord) -> None:
        domain = record.domain
        at = min(record.time.timestamp(), record.moved_at or 0.0)
        self.ids.setdefault(domain, set()).add(_digest(record.source, record.id))
        self.oldest[domain] = min(self.oldest.get(domain, at), at)
        self.last = record.sequence
        self.events += 1


class Verification:
    """Finds archived events that their streams do not hold.

    The archive is compared chunk by chunk. Each chunk is read from the archive before the streams are read. In the
    reverse order, an event that is published in between would be reported as missing. The reading of a stream begins
    shortly before the oldest event of the chunk was raised.

    Args:
        contents: The archive.
        streams: Reads the streams of the broker.
        republishing: Publishes the missing events; with `None` these events are only reported.
        mark: The mark for `EventPublisher.refill`. Use a different text for each run.
        chunk: The number of events that are compared at a time.
        clock: Returns the time in seconds since the epoch.

    Attributes:
        checked: The number of events that were compared so far.
    """

    def __init__(
        self,
        contents: OutboxContents,
        streams: StreamContents,
        *,
        republishing: Republishing | None = None,
        mark: str = "refill",
        chunk: int = CHUNK,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.checked: int = 0
        self._contents = contents
        self._streams = streams
        self._republishing = republishing
        self._mark = mark
        self._chunk = chunk
        self._clock = clock

    async def run(self, which: OutboxFilter, /) -> AsyncGenerator[Absent]:
        """Compare the matching events, and yield each event that its stream does not hold, in the order of the archive.

        With `republishing`, a missing event is first published again, and then yielded as `refilled` or `failed`.

        Raises:
            PublisherUnavailableError: The broker stopped answering. Events published again so far stay in the streams.
        """
        wanted, after = replace(which, place="archived"), 0
        while (chunk := await self._read(wanted, after)).events:
            for domain, ids in chunk.ids.items():
                since = datetime.fromtimestamp(max(0.0, chunk.oldest[domain] - _SKIP_MARGIN), UTC)
                chunk.streams[domain] = await self._streams.state(domain)
                await self._find(domain, ids, since=since)
            self.checked += chunk.events
            async with aclosing(self._results(wanted, chunk)) as found:
                async for absent in found:
                    yield absent
            after = chunk.last

    async def _read(self, which: OutboxFilter, after: int) -> _Chunk:
        chunk = _Chunk(after)
        while chunk.events < self._chunk:
            limit = min(_PAGE, self._chunk - chunk.events)
            page = await self._contents.find(which, after=max(after, chunk.last), limit=limit)
            for record in page:
                chunk.add(record)
            if len(page) < limit:
                break
        return chunk

    async def _find(self, domain: str, ids: set[bytes], *, since: datetime | None = None, after: int = 0) -> None:
        """Remove from `ids` the digests of all events that the stream holds."""
        async with aclosing(self._streams.ids(domain, since=since, after=after)) as pages:
            async for page in pages:
                ids.difference_update(_digest(*each) for each in page)
                if not ids:  # all are found: the rest of the stream need not be read
                    return

    async def _results(self, which: OutboxFilter, chunk: _Chunk) -> AsyncGenerator[Absent]:
        refilled: dict[str, set[bytes]] = {}
        if self._republishing is not None:
            refilled = await self._refill(self._republishing, which, chunk)
        async with aclosing(self._absent(which, chunk)) as pages:
            async for page in pages:
                for record in page:
                    outcome = self._outcome(record, chunk.streams[record.domain])
                    if outcome == "missing" and self._republishing is not None:
                        outcome = (
                            "refilled" if _digest(record.source, record.id) in refilled[record.domain] else "failed"
                        )
                    yield Absent(record, self._streams.stream(record.domain), outcome)

    async def _refill(self, republishing: Republishing, which: OutboxFilter, chunk: _Chunk) -> dict[str, set[bytes]]:
        """Publish the missing events of a chunk. Return, for each domain, the digests of the events that arrived."""
        sent: dict[str, set[bytes]] = {domain: set() for domain in chunk.ids}
        async with aclosing(self._absent(which, chunk)) as pages:
            async for page in pages:
                missing = [each for each in page if self._outcome(each, chunk.streams[each.domain]) == "missing"]
                for start in range(0, len(missing), republishing.batch):
                    await republishing.publish(missing[start : start + republishing.batch], mark=self._mark)
                for record in missing:
                    sent[record.domain].add(_digest(record.source, record.id))
        return {domain: await self._read_back(domain, ids, chunk) for domain, ids in sent.items()}

    async def _read_back(self, domain: str, sent: set[bytes], chunk: _Chunk) -> set[bytes]:
        """Return the digests of the sent events that the stream holds now."""
        lost, state = set(sent), chunk.streams[domain]
        if lost:
            await self._find(domain, lost, after=0 if state is None else state.last_sequence)
        return sent - lost

    async def _absent(self, which: OutboxFilter, chunk: _Chunk) -> AsyncGenerator[Sequence[OutboxRecord]]:
        """Yield the events of a chunk that were not found in the streams, in order, page by page."""
        after = chunk.after
        while any(chunk.ids.values()) and after < chunk.last:
            page = await self._contents.find(which, after=after, limit=_PAGE)
            if not page:
                return
            after = page[-1].sequence
            yield [record for record in page if _digest(record.source, record.id) in chunk.ids.get(record.domain, ())]

    def _outcome(self, record: OutboxRecord, stream: HeldStream | None) -> Absence:
        """Return why a stream does not hold an event, as far as the settings of the stream explain the absence."""
        stored_at = record.moved_at or 0.0
        if stream is None:
            return "missing"
        if stream.max_age is not None and stored_at + stream.max_age <= self._clock() + _MARGIN:
            return "expired"
        oldest = stream.oldest_at
        if stream.drops_oldest and oldest is not None and stored_at < oldest.timestamp() + _MARGIN:
            return "dropped"
        return "missing"


def _digest(source: str, identity: str) -> bytes:
    """Return 16 bytes that identify an event: a hash of its source and its id."""
    return hashlib.blake2b(f"{source}\0{identity}".encode(errors="surrogatepass"), digest_size=16).digest()
