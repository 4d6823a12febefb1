"""Backlog: how many events wait in an outbox, known well enough to refuse more, and cheap to know."""

import time
import weakref
from collections.abc import Callable

from sqlalchemy import func, literal, select
from sqlalchemy.ext.asyncio import AsyncConnection

from mediator.errors import OutboxFullError
from mediator.sqlalchemy.database import Database
from mediator.sqlalchemy.schema import outbox

_SECONDS = 1.0
_SHARE = 0.05
_SHARE_WHEN_FULL = 0.2


class Backlog:
    """Counts now and then, and adds what this process stages in between.

    A count looks at no more rows than the limit. It is repeated after a second, and later when it takes long: counting
    takes at most a twentieth of the time, and a fifth while the outbox seems to be full. Other processes are seen at the
    next count, so that the limit can be exceeded by what they add until then.

    Args:
        name: Of the database, for texts.
        clock: Monotonic time in seconds.
    """

    def __init__(self, name: str, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._name = name
        self._clock = clock
        self._known = 0
        self._counted = -float("inf")
        self._took = 0.0

    async def admit(self, connection: AsyncConnection, adding: int, limit: int) -> None:
        """Let a transaction add events, or not.

        Raises:
            OutboxFullError: More than `limit` would wait.
        """
        age = self._clock() - self._counted
        seems_full = self._known + adding > limit
        if age >= max(_SECONDS, self._took / _SHARE) or (seems_full and age >= self._took / _SHARE_WHEN_FULL):
            await self._count(connection, limit)
        if adding and self._known + adding > limit:
            raise OutboxFullError(self._name, self._known, limit)
        self._known += adding

    async def _count(self, connection: AsyncConnection, limit: int) -> None:
        started = self._clock()
        waiting = select(literal(1)).select_from(outbox).where(outbox.c.deliver_at.is_(None)).limit(limit + 1)
        result = await connection.execute(select(func.count()).select_from(waiting.subquery()))
        self._known = int(result.scalar_one())
        self._counted = self._clock()
        self._took = self._counted - started


_backlogs: weakref.WeakKeyDictionary[Database, Backlog] = weakref.WeakKeyDictionary()


def backlog_of(database: Database) -> Backlog:
    """The one backlog that this process knows of a database."""
    known = _backlogs.get(database)
    if known is None:
        known = _backlogs[database] = Backlog(database.name)
    return known
