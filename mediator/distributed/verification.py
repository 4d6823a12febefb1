"""Verification: an archive compared, id by id, with what the streams of the broker really hold, and refilled from."""

import hashlib
import time
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Literal

from mediator.distributed.outbox_contents import OutboxContents, OutboxFilter, OutboxRecord
from mediator.distributed.republishing import Republishing
from mediator.distributed.stream_contents import HeldStream, StreamContents

CHUNK = 250_000
"""How many ids are compared at a time: 21 MB of them, as 83 MB a million."""

_PAGE = 5000
_MARGIN = 60.0
"""Seconds by which clocks may differ, and within which it is not worth while to refill what is about to expire."""
_SKIP_MARGIN = 3600.0
"""Seconds before an event was raised with which the reading of a stream begins."""

Absence = Literal["missing", "expired", "dropped", "refilled", "failed"]


@dataclass(frozen=True, slots=True)
class Absent:
    """An archived event that its stream did not hold.

    Attributes:
        record: The event.
        stream: The name of its stream.
        outcome: `missing`: the broker has lost it. `expired`: it was older than the stream keeps events. `dropped`: the
            stream made room by dropping it. `refilled`: it was missing, and the stream holds it now. `failed`: it is
            missing, and refilling did not help.
    """

    record: OutboxRecord
    stream: str
    outcome: Absence


@dataclass(slots=True)
class _Chunk:
    """Some events of an archive, as 16 bytes of each id, by context.

    Attributes:
        after: The sequence behind which they begin.
        last: The sequence with which they end.
        events: How many they are.
        ids: By context, those that were not found in the stream so far.
        oldest: By context, no event was stored before this time, in seconds since the epoch.
        streams: The streams, as they were before they were read.
    """

    after: int
    last: int = 0
    events: int = 0
    ids: dict[str, set[bytes]] = field(default_factory=dict[str, set[bytes]])
    oldest: dict[str, float] = field(default_factory=dict[str, float])
    streams: dict[str, HeldStream | None] = field(default_factory=dict[str, HeldStream | None])

    def add(self, record: OutboxRecord) -> None:
        context = record.context
        at = min(record.time.timestamp(), record.moved_at or 0.0)
        self.ids.setdefault(context, set()).add(_digest(record.id))
        self.oldest[context] = min(self.oldest.get(context, at), at)
        self.last = record.sequence
        self.events += 1


class Verification:
    """Finds what is in an archive and not in the streams.

    The archive is read first and the streams after it, so that whatever is published meanwhile is no false finding. A
    chunk of the archive is compared at a time, by reading the streams from where its oldest event may be.

    Args:
        contents: The archive.
        streams: What the broker holds.
        republishing: Publishes what is missing; `None` to find it only.
        mark: Of `EventPublisher.refill`; another one for each run.
        chunk: How many events are compared at a time.
        clock: The time in seconds since the epoch.

    Attributes:
        checked: How many events were compared so far.
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
        """Compare what fits, and tell of each event that its stream does not hold, in the order of the archive.

        A refill is told of after it was read back.

        Raises:
            PublisherUnavailableError: The broker stopped answering. What was refilled so far is there.
        """
        wanted, after = replace(which, place="archived"), 0
        while (chunk := await self._read(wanted, after)).events:
            for context, ids in chunk.ids.items():
                since = datetime.fromtimestamp(max(0.0, chunk.oldest[context] - _SKIP_MARGIN), UTC)
                chunk.streams[context] = await self._streams.state(context)
                await self._find(context, ids, since=since)
            self.checked += chunk.events
            async with aclosing(self._told(wanted, chunk)) as found:
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

    async def _find(self, context: str, ids: set[bytes], *, since: datetime | None = None, after: int = 0) -> None:
        """Take those out of the set that the stream holds."""
        async with aclosing(self._streams.ids(context, since=since, after=after)) as pages:
            async for page in pages:
                ids.difference_update(map(_digest, page))
                if not ids:  # a chunk that is all there costs no more than its part of the stream
                    return

    async def _told(self, which: OutboxFilter, chunk: _Chunk) -> AsyncGenerator[Absent]:
        refilled: dict[str, set[bytes]] = {}
        if self._republishing is not None:
            refilled = await self._refill(self._republishing, which, chunk)
        async with aclosing(self._absent(which, chunk)) as pages:
            async for page in pages:
                for record in page:
                    outcome = self._outcome(record, chunk.streams[record.context])
                    if outcome == "missing" and self._republishing is not None:
                        outcome = "refilled" if _digest(record.id) in refilled[record.context] else "failed"
                    yield Absent(record, self._streams.stream(record.context), outcome)

    async def _refill(self, republishing: Republishing, which: OutboxFilter, chunk: _Chunk) -> dict[str, set[bytes]]:
        """Publish what is missing of a chunk, and return what the streams hold of it then."""
        sent: dict[str, set[bytes]] = {context: set() for context in chunk.ids}
        async with aclosing(self._absent(which, chunk)) as pages:
            async for page in pages:
                missing = [each for each in page if self._outcome(each, chunk.streams[each.context]) == "missing"]
                for start in range(0, len(missing), republishing.batch):
                    await republishing.publish(missing[start : start + republishing.batch], mark=self._mark)
                for record in missing:
                    sent[record.context].add(_digest(record.id))
        return {context: await self._read_back(context, ids, chunk) for context, ids in sent.items()}

    async def _read_back(self, context: str, sent: set[bytes], chunk: _Chunk) -> set[bytes]:
        """Those that the stream holds now."""
        lost, state = set(sent), chunk.streams[context]
        if lost:
            await self._find(context, lost, after=0 if state is None else state.last_sequence)
        return sent - lost

    async def _absent(self, which: OutboxFilter, chunk: _Chunk) -> AsyncGenerator[Sequence[OutboxRecord]]:
        """The events of a chunk that were not found, in order, page by page."""
        after = chunk.after
        while any(chunk.ids.values()) and after < chunk.last:
            page = await self._contents.find(which, after=after, limit=_PAGE)
            if not page:
                return
            after = page[-1].sequence
            known = (record for record in page if record.sequence <= chunk.last)
            yield [record for record in known if _digest(record.id) in chunk.ids.get(record.context, ())]

    def _outcome(self, record: OutboxRecord, stream: HeldStream | None) -> Absence:
        """Why a stream does not hold an event, as far as its settings tell."""
        stored_at = record.moved_at or 0.0
        if stream is None:
            return "missing"
        if stream.max_age is not None and stored_at + stream.max_age <= self._clock() + _MARGIN:
            return "expired"
        oldest = stream.oldest_at
        if stream.drops_oldest and oldest is not None and stored_at < oldest.timestamp() + _MARGIN:
            return "dropped"
        return "missing"


def _digest(identity: str) -> bytes:
    """16 bytes that stand for an id."""
    return hashlib.blake2b(identity.encode(errors="surrogatepass"), digest_size=16).digest()
