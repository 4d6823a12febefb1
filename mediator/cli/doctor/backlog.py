"""Backlog: checks whether events have waited in an outbox for too long, and whether events are parked."""

from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import ColumnElement, and_, case, func, or_, select, tuple_

from mediator.cli.doctor.finding import Check, Finding, fault, found_or, ok, warning
from mediator.cli.doctor.installation import Installation
from mediator.cli.rows import as_time, class_of
from mediator.distributed.parking import ParkReason
from mediator.errors import SchemaError
from mediator.sqlalchemy.engine import database_of
from mediator.sqlalchemy.outbox import SqlAlchemyOutbox
from mediator.sqlalchemy.schema import archive, outbox, parked


class Backlog(Check):
    """Checks the number and age of the events that wait in each outbox, and whether a relay publishes events."""

    name = "backlog"

    async def run(self, installation: Installation) -> AsyncIterator[Finding]:
        engines = {
            store.engine: store.label
            for store in installation.outboxes
            if isinstance(store.value, SqlAlchemyOutbox) and store.engine is not None
        }
        for engine, label in engines.items():
            try:
                found = await _look(engine)
            except SchemaError:
                continue  # the check `Tables` reports the error
            yield _finding(label, installation, *found)


async def _look(engine: Any) -> tuple[int, float | None, float | None]:
    """Return the number of waiting events, the time of the oldest waiting event, and the time of the last publication."""
    ready = select(outbox.c.time).where(outbox.c.deliver_at.is_(None))
    async with database_of(engine).reader.connect() as connection:
        count = (await connection.execute(select(func.count()).select_from(ready.subquery()))).scalar_one()
        oldest = (await connection.execute(ready.order_by(outbox.c.sequence).limit(1))).scalar()
        published = (await connection.execute(select(func.max(archive.c.archived_at)))).scalar()
    return count, None if oldest is None else datetime.fromisoformat(oldest).timestamp(), published


def _finding(
    label: str, installation: Installation, count: int, oldest: float | None, published: float | None
) -> Finding:
    now, allowed = installation.options.clock(), installation.options.backlog_age
    if oldest is None:
        return ok("outbox", label, "nothing waits")
    age = now - oldest
    text = f"{count:,} events wait, the oldest one for {age:.0f} s"
    if age <= allowed:
        return ok("outbox", label, text)
    if published is None or published < oldest:
        remedy = "Check whether a relay runs (`mediator run`), and whether its log says that the broker is unavailable."
        return fault("outbox-idle", label, f"{text}, and no event was published in this time", remedy)
    text = f"{text}, although another event was published {now - published:.0f} s ago"
    remedy = (
        "Find the blocked domain in the relay's log, or the blocked key with `mediator parked list --direction out`."
    )
    return fault("outbox-backlog", label, text, remedy)


_DECIDE = "See them with `mediator parked list`, then replay or discard them."
_REPLAY = "Replay them: `mediator parked replay --reason unknown-type`."
_RUN = (
    "Check whether a process consumes (`mediator run`), and whether the consumer has `later_delays`. Otherwise replay the "
    "events: `mediator parked replay --waiting`."
)


@dataclass(frozen=True, slots=True)
class _Group:
    """The parked events with the same direction, reason, type and `waits`.

    Attributes:
        waits: Whether a consumer tries the events again by itself. An event is tried when it is due, or after an earlier
            event with the same key that is due.
        due_at: When the next event is due, in seconds since the epoch; `None` if no event of the group has such a time.
    """

    direction: str
    reason: str
    type: str
    waits: bool
    count: int
    due_at: float | None


@dataclass(frozen=True, slots=True)
class _Held:
    """The events of one consumer that the open circuit of one handler holds.

    Attributes:
        handler: The name of the handler class, with its module.
        count: The number of the held events.
        since: When the first held event was parked, in seconds since the epoch. The circuit may have opened later.
        behind: The number of the events that are parked behind a held event with the same key.
        number: The number of the first held event.
        error: The text of the error with which the first held event is stored.
    """

    consumer: str
    handler: str
    count: int
    since: float
    behind: int
    number: int
    error: str


class Parked(Check):
    """Checks the parked events of each database.

    Events that wait for a later try, events that an open circuit holds, and events that wait for a person are counted
    apart.
    """

    name = "parked"

    async def run(self, installation: Installation) -> AsyncIterator[Finding]:
        handled = {event_type for consumer in installation.consumers for event_type in consumer.event_types}
        for part in installation.databases:
            try:
                groups, held = await _counted(part.value), await _held(part.value)
            except SchemaError:
                continue  # the check `Tables` reports the error
            findings = _findings(part.label, [group for group in groups if not group.waits], handled)
            waiting = _waiting(part.label, installation, [group for group in groups if group.waits])
            holding = [_holding(part.label, each) for each in held]
            fine = ok("parked", part.label, "nothing is parked")
            for finding in found_or([*waiting, *holding, *findings], fine):
                yield finding


async def _counted(engine: Any) -> list[_Group]:
    """Count the events that no open circuit holds, and that are not parked behind a held event."""
    is_due, is_held = parked.c.due_at.is_not(None), parked.c.held_by.is_not(None)
    waits = or_(is_due, _follows(is_due)).label("waits")
    left_out = case((is_due, 0), (or_(is_held, _follows(is_held)), 1), else_=0)
    rows = select(parked.c.direction, parked.c.reason, parked.c.type, waits, parked.c.due_at).where(left_out == 0)
    each = rows.subquery()
    names = (each.c.direction, each.c.reason, each.c.type, each.c.waits)
    counted = select(*names, func.count(), func.min(each.c.due_at)).group_by(*names).order_by(*names)
    async with database_of(engine).reader.connect() as connection:
        return [_Group(*row) for row in await connection.execute(counted)]


def _follows(goes_on: ColumnElement[bool]) -> ColumnElement[bool]:
    """Match the events that are parked behind an event that has the same key and meets the condition `goes_on`."""
    keeps_order = and_(parked.c.partition_key.is_not(None), parked.c.ordered == 1)
    keys = select(parked.c.consumer, parked.c.partition_key).where(goes_on, keeps_order)
    key = tuple_(parked.c.consumer, parked.c.partition_key)
    return and_(parked.c.reason == ParkReason.KEY_PARKED, key.in_(keys))


async def _held(engine: Any) -> list[_Held]:
    """Count the events that open circuits hold, for each consumer and handler."""
    held, behind = parked.alias(), parked.alias()
    is_behind = and_(
        behind.c.consumer == held.c.consumer,
        behind.c.partition_key == held.c.partition_key,
        behind.c.reason == ParkReason.KEY_PARKED,
        behind.c.due_at.is_(None),
        held.c.ordered == 1,
    )
    names = (held.c.consumer, held.c.held_by)
    numbers = (func.count(held.c.number.distinct()), func.min(held.c.parked_at), func.count(behind.c.number.distinct()))
    counted = select(*names, *numbers, func.min(held.c.number).label("first")).outerjoin_from(held, behind, is_behind)
    each = counted.where(held.c.held_by.is_not(None)).group_by(*names).subquery()
    found = select(each, parked.c.error).join_from(each, parked, parked.c.number == each.c.first)
    async with database_of(engine).reader.connect() as connection:
        return [_Held(*row) for row in await connection.execute(found.order_by(each.c.consumer, each.c.held_by))]


def _waiting(label: str, installation: Installation, groups: list[_Group]) -> Iterator[Finding]:
    """Yield a finding about the events that a consumer tries again by itself; nothing if there are no such events."""
    due_at = min((group.due_at for group in groups if group.due_at is not None), default=None)
    if due_at is None:
        return
    text = f"{_sum(groups):,} events wait for a later try of their consumer ({_reasons(groups)})"
    due_in = due_at - installation.options.clock()
    if due_in < -installation.options.backlog_age:
        yield warning("parked-overdue", label, f"{text}, and the next one has been due for {-due_in:.0f} s", _RUN)
    else:
        yield ok("parked", label, f"{text}, the next one in {max(0.0, due_in):.0f} s")


def _holding(label: str, held: _Held) -> Finding:
    """Return a warning about the events that the open circuit of a handler holds."""
    error = class_of(held.error)
    text = (
        f"{held.count:,} events of the group {held.consumer} are held, because the circuit of {held.handler} is open"
        f"{f' ({error})' if error else ''}; the first one was parked at {as_time(held.since)}"
    )
    if held.behind:
        text = f"{text}, and {held.behind:,} later events of their keys wait behind them"
    remedy = (
        f"Repair what the handler depends on; `mediator parked show {held.number}` has the whole error. A running consumer "
        f"then goes on by itself, within about 30 s. `mediator parked replay {held.number}` tries the first event now."
    )
    return warning("parked-held", label, text, remedy)


def _findings(label: str, groups: list[_Group], handled: set[str]) -> Iterator[Finding]:
    """Yield warnings about the events that wait for a person."""
    known = sum(group.count for group in groups if _is_known(group, handled))
    if known:
        text = f"{known:,} events were parked because no consumer handled their type, but now a consumer does"
        yield warning("parked-replayable", label, text, _REPLAY)
    coming = [group for group in groups if group.direction == "in" and not _is_known(group, handled)]
    if coming:
        text = f"{_sum(coming):,} events that came in are parked ({_reasons(coming)}): they have not taken effect"
        yield warning("parked-in", label, text, _DECIDE)
    going = [group for group in groups if group.direction == "out"]
    if going:
        text = f"{_sum(going):,} events were not published ({_reasons(going)}), and later events of their keys wait"
        yield warning("parked-out", label, text, f"{_DECIDE} `--direction out` lists only these events.")


def _is_known(group: _Group, handled: set[str]) -> bool:
    return group.reason == ParkReason.UNKNOWN_TYPE and group.type.rpartition(".v")[0] in handled


def _sum(groups: list[_Group]) -> int:
    return sum(group.count for group in groups)


def _reasons(groups: list[_Group]) -> str:
    counted: dict[str, int] = {}
    for group in groups:
        counted[group.reason] = counted.get(group.reason, 0) + group.count
    return ", ".join(f"{reason}: {count}" for reason, count in counted.items())
