"""Staged events: waiting events, ordered events and event ids; and the records that a filter selects."""

from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest

from mediator.distributed.cloudevents import CloudEvent
from mediator.distributed.outbox import OutboxFilter, OutboxRecord
from mediator.distributed.parking import ParkedFilter, refused_event
from mediator.distributed.unit_of_work import StagedEvent, check_ids, count_waiting
from mediator.errors import EventIdConflictError, EventLimitError

LATER = datetime(2027, 1, 1, tzinfo=UTC)


def event(event_id: str = "1", key: str | None = "k") -> CloudEvent:
    return CloudEvent(event_id, "shop.x.v1", datetime(2026, 1, 1, tzinfo=UTC), b"{}", partitionkey=key)


def test_a_strict_event_without_a_delay_is_ordered_by_its_key() -> None:
    assert StagedEvent(event()).locked_key == "k"
    assert StagedEvent(event(), "strict", LATER).locked_key is None
    assert StagedEvent(event(), "row").locked_key is None
    assert StagedEvent(event(key=None)).locked_key is None


def test_delayed_events_do_not_count_and_exactly_the_permitted_number_is_accepted() -> None:
    events = [*(StagedEvent(event(f"{n}")) for n in range(3)), StagedEvent(event("late"), deliver_at=LATER)]
    assert count_waiting(events, 3) == 3
    assert count_waiting(events[3:], 0) == 0
    with pytest.raises(EventLimitError):
        count_waiting(events, 2)


def test_an_event_id_must_be_unique_in_its_command_and_among_waiting_events() -> None:
    staged = [StagedEvent(event(f"{n}")) for n in range(3)]
    check_ids(staged, [event("other")])
    with pytest.raises(EventIdConflictError) as repeated:
        check_ids([*staged, StagedEvent(event("1"), deliver_at=LATER)], [event("2")])
    assert (repeated.value.event_ids, repeated.value.in_one_command) == (("1",), True)
    with pytest.raises(EventIdConflictError) as taken:
        check_ids(staged, [event("other"), event("2"), event("0")])
    assert (set(taken.value.event_ids), taken.value.in_one_command) == ({"0", "2"}, False)


RECORD = OutboxRecord(
    place="archived",
    sequence=7,
    id="a",
    type="shop.x.v1",
    time=datetime.fromtimestamp(100, UTC),
    partition_key="k",
    size=1,
    moved_at=200.0,
    **({"source": "app"} if "source" in OutboxRecord.__dataclass_fields__ else {}),
)


@pytest.mark.parametrize(
    ("which", "fits"),
    [
        ({}, True),
        ({"place": "waiting"}, False),
        ({"ids": ("b", "a")}, True),
        ({"ids": ("b",)}, False),
        ({"type": "shop.x.v1", "key": "k", "domain": "shop"}, True),
        ({"type": "shop.x.v2"}, False),
        ({"key": "K"}, False),
        ({"key": ""}, False),
        ({"domain": "sho"}, False),
        ({"since": 200.0}, True),
        ({"since": 200.5}, False),
        ({"since": 0.0}, True),
    ],
)
def test_a_record_matches_a_filter_when_it_meets_every_condition(which: dict[str, Any], fits: bool) -> None:
    assert (RECORD in OutboxFilter(**({"place": "archived"} | which))) is fits


def test_the_age_of_a_waiting_event_counts_from_its_creation_and_of_an_archived_one_from_archiving() -> None:
    waiting = replace(RECORD, place="waiting", moved_at=None)
    delayed = replace(RECORD, place="delayed", moved_at=900.0)
    for record, place in ((waiting, "waiting"), (delayed, "delayed")):
        assert record in OutboxFilter(place, since=100.0)  # type: ignore[arg-type]
        assert record not in OutboxFilter(place, since=100.5)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("which", "fits"),
    [
        ({}, True),
        ({"numbers": (3, 4)}, True),
        ({"numbers": (4,)}, False),
        ({"direction": "out"}, True),
        ({"direction": "in"}, False),
        ({"consumer": "g"}, False),
        ({"type": "shop.x.v1", "key": "k", "reason": "refused"}, True),
        ({"reason": "other"}, False),
        ({"since": 50.0}, True),
        ({"since": 50.5}, False),
    ],
)
def test_a_parked_event_matches_a_filter_when_it_meets_every_condition(which: dict[str, Any], fits: bool) -> None:
    parked = replace(refused_event(event(), "refused", "too large", sequence=1), number=3, parked_at=50.0)
    assert (parked in ParkedFilter(**which)) is fits
