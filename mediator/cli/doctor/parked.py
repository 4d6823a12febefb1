"""Parked: the events that were set aside and wait for a decision."""

from collections.abc import AsyncIterator, Iterator
from typing import Any

from sqlalchemy import func, select

from mediator.cli.doctor.check import Check
from mediator.cli.doctor.finding import Finding, found_or, ok, warning
from mediator.cli.doctor.installation import Installation
from mediator.distributed.parking import ParkReason
from mediator.errors import SchemaMissingError
from mediator.sqlalchemy.engine import database_of
from mediator.sqlalchemy.schema import parked

_DECIDE = "See them with `mediator parked list`, then replay or discard them."
_REPLAY = "Replay them: `mediator parked replay --reason unknown-type`."


class Parked(Check):
    """The parked events of each database, those that came in and those that were to go out."""

    name = "parked"

    async def run(self, installation: Installation) -> AsyncIterator[Finding]:
        """See `Check.run`."""
        handled = {event_type for consumer in installation.consumers for event_type in consumer.event_types}
        for part in installation.databases:
            try:
                rows = await _counted(part.value)
            except SchemaMissingError:
                continue  # that is told of the schema
            for finding in found_or(
                _findings(part.label, rows, handled), ok("parked", part.label, "nothing is parked")
            ):
                yield finding


async def _counted(engine: Any) -> list[tuple[str, str, str, int]]:
    """Direction, reason and type, with their numbers of events."""
    columns = (parked.c.direction, parked.c.reason, parked.c.type)
    async with database_of(engine).reader.connect() as connection:
        rows = await connection.execute(select(*columns, func.count()).group_by(*columns).order_by(*columns))
        return [(row[0], row[1], row[2], row[3]) for row in rows]


def _findings(label: str, rows: list[tuple[str, str, str, int]], handled: set[str]) -> Iterator[Finding]:
    known = sum(count for _, reason, event_type, count in rows if _is_known(reason, event_type, handled))
    if known:
        text = f"{known:,} events were parked because nothing handled their type, and now something does"
        yield warning("parked-replayable", label, text, _REPLAY)
    coming = [row for row in rows if row[0] == "in" and not _is_known(row[1], row[2], handled)]
    if coming:
        text = f"{_sum(coming):,} events that came in are parked ({_reasons(coming)}): they have not taken effect"
        yield warning("parked-in", label, text, _DECIDE)
    going = [row for row in rows if row[0] == "out"]
    if going:
        text = (
            f"{_sum(going):,} events were not published ({_reasons(going)}), and hold back the later ones of their keys"
        )
        yield warning("parked-out", label, text, f"{_DECIDE} Those that go out are listed with `--direction out`.")


def _is_known(reason: str, event_type: str, handled: set[str]) -> bool:
    return reason == ParkReason.UNKNOWN_TYPE and event_type.rpartition(".v")[0] in handled


def _sum(rows: list[tuple[str, str, str, int]]) -> int:
    return sum(count for *_, count in rows)


def _reasons(rows: list[tuple[str, str, str, int]]) -> str:
    counted: dict[str, int] = {}
    for _, reason, _, count in rows:
        counted[reason] = counted.get(reason, 0) + count
    return ", ".join(f"{reason}: {count}" for reason, count in counted.items())
