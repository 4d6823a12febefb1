"""The checker: finds events that were lost, doubled, inverted within their key, stuck or never committed.

It compares the ids of the events in the databases and the stream.
"""

from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field

from sqlalchemy.ext.asyncio import AsyncEngine

from mediator.distributed.cloudevents import bucket_of
from tests.faults.scenarios import tables
from tests.faults.scenarios.stream import in_the_stream
from tests.faults.scenarios.tables import Seen


@dataclass(frozen=True, slots=True)
class Findings:
    """The findings, by ids of events.

    Attributes:
        lost: Committed events that are nowhere.
        doubled: Events that are there more than once.
        inverted: Events behind a later committed event of the same key.
        stuck: Events that still wait.
        strange: Events that are there and were never committed.
    """

    lost: list[str] = field(default_factory=list)
    doubled: list[str] = field(default_factory=list)
    inverted: list[str] = field(default_factory=list)
    stuck: list[str] = field(default_factory=list)
    strange: list[str] = field(default_factory=list)

    def __bool__(self) -> bool:
        """Whether there are findings."""
        return any((self.lost, self.doubled, self.inverted, self.stuck, self.strange))

    def counts(self) -> dict[str, int]:
        return {name: len(getattr(self, name)) for name in ("lost", "doubled", "inverted", "stuck", "strange")}


def compare(committed: Sequence[Seen], found: Sequence[Seen], stuck: Collection[str] = ()) -> Findings:
    """Compare the committed events with the found events, each in their order."""
    places = {each.id: place for place, each in enumerate(committed)}
    times = Counter(each.id for each in found)
    still = set(stuck)
    return Findings(
        lost=[each.id for each in committed if each.id not in times and each.id not in still],
        doubled=[event_id for event_id, number in times.items() if number > 1],
        inverted=_inverted(committed, places, list(times)),
        stuck=sorted(still),
        strange=[event_id for event_id in times if event_id not in places],
    )


def _inverted(committed: Sequence[Seen], places: dict[str, int], found: Sequence[str]) -> list[str]:
    latest: dict[str, int] = {}
    inverted: list[str] = []
    for event_id in found:
        place = places.get(event_id)
        if place is None or not committed[place].key:
            continue
        key = committed[place].key
        if place < latest.get(key, -1):
            inverted.append(event_id)
        latest[key] = max(place, latest.get(key, -1))
    return inverted


async def check_stream(publisher: AsyncEngine, urls: Sequence[str]) -> tuple[Findings, list[Seen], list[Seen]]:
    """Return the findings in the stream, the committed events, and the events in the stream."""
    committed, stored = await tables.in_commit_order(publisher, "entries"), await in_the_stream(urls)
    stuck = await tables.ids(publisher, "mediator_outbox") + await tables.ids(publisher, "mediator_parked", "event_id")
    return compare(committed, stored, stuck), committed, stored


async def check_effects(publisher: AsyncEngine, keeper: AsyncEngine, *, singles: bool = False) -> Findings:
    """Return the findings in the effects.

    Args:
        publisher: The database in which the events were committed.
        keeper: The database of the subscriber.
        singles: Whether only events that were alone in their command have a subscription.
    """
    committed = await tables.in_commit_order(publisher, "entries")
    committed = alone(committed) if singles else committed
    stuck = [each.id for each in await tables.parked(keeper)] + await tables.ids(
        keeper, "mediator_attempts", "event_id"
    )
    return compare(committed, await tables.in_commit_order(keeper, "effects"), stuck)


def alone(committed: Sequence[Seen]) -> list[Seen]:
    """Return the events that were the only ones of their commands."""
    number = Counter(each.detail for each in committed)
    return [each for each in committed if number[each.detail] == 1]


def resumed(
    committed: Sequence[Seen], stored: Sequence[Seen], moment: float, until: float | None = None
) -> float | None:
    """Return how long after a moment the bucket that waited longest was published again.

    Args:
        committed: The committed events with their times.
        stored: The events in the stream with their times.
        moment: The moment in seconds since the epoch.
        until: Events committed until this time count from their commit on; `None` counts only events that already waited.

    Returns:
    Seconds, or `None` if no event waited.
    """
    when = {each.id: each.at for each in stored}
    next_of: dict[int, tuple[float, float]] = {}
    for each in committed:
        at = when.get(each.id, float("inf"))
        if each.at < (until or moment) and at > moment:
            bucket = bucket_of(each.key, each.id)
            next_of[bucket] = min((at, at - max(moment, each.at)), next_of.get(bucket, (float("inf"), float("inf"))))
    return max(wait for _, wait in next_of.values()) if next_of else None
