"""Backlog: whether events wait in an outbox for longer than they should."""

from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import func, select

from mediator.cli.doctor.check import Check
from mediator.cli.doctor.finding import Finding, fault, ok
from mediator.cli.doctor.installation import Installation
from mediator.errors import SchemaMissingError
from mediator.sqlalchemy.engine import database_of
from mediator.sqlalchemy.outbox import SqlAlchemyOutbox
from mediator.sqlalchemy.schema import archive, outbox


@dataclass(frozen=True, slots=True)
class _Waiting:
    count: int
    oldest: float | None
    last_published: float | None


class Backlog(Check):
    """Each outbox: how many events wait, since when, and whether a relay is at work."""

    name = "backlog"

    async def run(self, installation: Installation) -> AsyncIterator[Finding]:
        """See `Check.run`."""
        engines = {
            store.engine: store.label
            for store in installation.outboxes
            if isinstance(store.value, SqlAlchemyOutbox) and store.engine is not None
        }
        for engine, label in engines.items():
            try:
                waiting = await _look(engine)
            except SchemaMissingError:
                continue  # that is told of the schema
            yield _finding(label, waiting, installation)


async def _look(engine: Any) -> _Waiting:
    ready = select(outbox.c.time).where(outbox.c.deliver_at.is_(None))
    async with database_of(engine).reader.connect() as connection:
        count = (await connection.execute(select(func.count()).select_from(ready.subquery()))).scalar_one()
        oldest = (await connection.execute(ready.order_by(outbox.c.sequence).limit(1))).scalar()
        published = (await connection.execute(select(func.max(archive.c.archived_at)))).scalar()
    return _Waiting(count, None if oldest is None else datetime.fromisoformat(oldest).timestamp(), published)


def _finding(label: str, waiting: _Waiting, installation: Installation) -> Finding:
    now, allowed = installation.options.clock(), installation.options.backlog_age
    if waiting.oldest is None:
        return ok("outbox", label, "nothing waits")
    age = now - waiting.oldest
    text = f"{waiting.count:,} events wait, the oldest one for {age:.0f} s"
    if age <= allowed:
        return ok("outbox", label, text)
    if waiting.last_published is None or waiting.last_published < waiting.oldest:
        remedy = "See whether a relay runs (`mediator run`), and whether its log says that the broker is away."
        return fault("outbox-idle", label, f"{text}, and nothing was published since", remedy)
    ago = f"another one was published {now - waiting.last_published:.0f} s ago"
    remedy = (
        "See the log of the relay for a context that waits, and `mediator parked list --direction out` for its key."
    )
    return fault("outbox-backlog", label, f"{text}, though {ago}", remedy)
