"""Backlog: checks whether events have waited in an outbox for too long, and whether events are parked."""

from collections.abc import AsyncIterator, Iterator
from datetime import datetime
from typing import Any

from sqlalchemy import func, select

from mediator.cli.doctor.finding import Check, Finding, fault, found_or, ok, warning
from mediator.cli.doctor.installation import Installation
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


class Parked(Check):
    """Checks the parked events of each database, incoming and outgoing."""

    name = "parked"

    async def run(self, installation: Installation) -> AsyncIterator[Finding]:
        handled = {event_type for consumer in installation.consumers for event_type in consumer.event_types}
        for part in installation.databases:
            try:
                rows = await _counted(part.value)
            except SchemaError:
                continue  # the check `Tables` reports the error
            fine = ok("parked", part.label, "nothing is parked")
            for finding in found_or(_findings(part.label, rows, handled), fine):
                yield finding


async def _counted(engine: Any) -> list[tuple[str, str, str, int]]:
    """Return the number of events for each direction, reason and type."""
    columns = (parked.c.direction, parked.c.reason, parked.c.type)
    async with database_of(engine).reader.connect() as connection:
        rows = await connection.execute(select(*columns, func.count()).group_by(*columns).order_by(*columns))
        return [(row[0], row[1], row[2], row[3]) for row in rows]


def _findings(label: str, rows: list[tuple[str, str, str, int]], handled: set[str]) -> Iterator[Finding]:
    known = sum(count for _, reason, event_type, count in rows if _is_known(reason, event_type, handled))
    if known:
        text = f"{known:,} events were parked because no consumer handled their type, but now a consumer does"
        yield warning("parked-replayable", label, text, _REPLAY)
    coming = [row for row in rows if row[0] == "in" and not _is_known(row[1], row[2], handled)]
    if coming:
        text = f"{_sum(coming):,} events that came in are parked ({_reasons(coming)}): they have not taken effect"
        yield warning("parked-in", label, text, _DECIDE)
    going = [row for row in rows if row[0] == "out"]
    if going:
        text = f"{_sum(going):,} events were not published ({_reasons(going)}), and later events of their keys wait"
        yield warning("parked-out", label, text, f"{_DECIDE} `--direction out` lists only these events.")


def _is_known(reason: str, event_type: str, handled: set[str]) -> bool:
    return reason == ParkReason.UNKNOWN_TYPE and event_type.rpartition(".v")[0] in handled


def _sum(rows: list[tuple[str, str, str, int]]) -> int:
    return sum(count for *_, count in rows)


def _reasons(rows: list[tuple[str, str, str, int]]) -> str:
    counted: dict[str, int] = {}
    for _, reason, _, count in rows:
        counted[reason] = counted.get(reason, 0) + count
    return ", ".join(f"{reason}: {count}" for reason, count in counted.items())
