"""Sample events: what the conformance suites of the transport publish."""

import itertools
from collections.abc import Iterator
from datetime import UTC, datetime

from mediator.distributed.cloudevents import BUCKETS, CloudEvent

TYPE = "shop.order-placed"
_PARTITIONS = 16


def event(event_id: str, key: str | None = None, *, event_type: str = f"{TYPE}.v1", data: bytes = b"1") -> CloudEvent:
    """An event with an id, of the type that the cases subscribe to."""
    return CloudEvent(event_id, event_type, datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC), data, partitionkey=key)


def events(count: int, key: str | None = None) -> list[CloudEvent]:
    """Events with the ids "0", "1"..., of one key or of none."""
    return [event(f"{number}", key) for number in range(count)]


def apart(count: int) -> list[CloudEvent]:
    """At most 16 events without keys in as many partitions, so that none waits for another, whatever the ordering."""
    return list(itertools.islice(_apart(), count))


def _apart() -> Iterator[CloudEvent]:
    seen: set[int] = set()
    for number in itertools.count():
        made = event(f"{number}")
        if made.bucket % _PARTITIONS not in seen:
            seen.add(made.bucket % _PARTITIONS)
            yield made
        if len(seen) == min(_PARTITIONS, BUCKETS):
            return


def in_order(taken: list[str], published: list[CloudEvent]) -> bool:
    """Whether the events of each key were taken in the order in which they were published."""
    keys = {each.partitionkey for each in published} - {None}
    return all(_of_key(taken, published, key) for key in keys)


def _of_key(taken: list[str], published: list[CloudEvent], key: str | None) -> bool:
    expected = [each.id for each in published if each.partitionkey == key]
    return [one for one in taken if one in set(expected)] == expected
