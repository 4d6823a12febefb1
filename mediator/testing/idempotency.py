"""InMemoryIdempotency: commands that happened, by their keys, in an `InMemoryDatabase`."""

import time
from collections.abc import Callable
from itertools import islice

from mediator.distributed.idempotency import Idempotency, KeptResponse, is_expired
from mediator.distributed.requests import RequestCodec
from mediator.distributed.unit_of_work import UnitOfWork
from mediator.errors import UnitOfWorkMismatchError
from mediator.msgspec import MsgspecRequestCodec
from mediator.testing.database import InMemoryDatabase, InMemoryUnitOfWork

TABLE = "mediator_idempotency"
"""Of the database: fingerprint, response and the time in seconds since the epoch, by key."""


class InMemoryIdempotency(Idempotency):
    """`idempotency = providers.Singleton(InMemoryIdempotency, database)`.

    Args:
        database: That of the unit of work.
        codec: Writes and reads responses; JSON through msgspec by default.
        keep_seconds: How long a response is kept, in seconds; one day.
        clean_interval: How often old ones are deleted, in seconds, by whoever runs the workers of the container.
        clock: The time in seconds since the epoch.
    """

    def __init__(
        self,
        database: InMemoryDatabase,
        *,
        codec: RequestCodec | None = None,
        keep_seconds: float = 86_400.0,
        clean_interval: float = 60.0,
        clock: Callable[[], float] = time.time,
    ) -> None:
        super().__init__(codec or MsgspecRequestCodec(), keep_seconds=keep_seconds, clean_interval=clean_interval)
        self._database = database
        self._clock = clock

    async def claim(self, unit_of_work: UnitOfWork, key: str, fingerprint: str, /) -> KeptResponse | None:
        """See `Idempotency.claim`.

        Raises:
            UnitOfWorkMismatchError: The unit of work is not one on this database.
        """
        mine = self._mine(unit_of_work)
        self._database.check_available()
        await mine.lock((TABLE, key))
        table, now = mine.table(TABLE), self._clock()
        found, response, created_at = table.get(key, ("", b"", now))
        if response and not is_expired(created_at, now, self.keep_seconds):
            return KeptResponse(found, response)
        table[key] = (fingerprint, b"", now)
        return None

    async def keep(self, unit_of_work: UnitOfWork, key: str, response: bytes, /) -> None:
        """See `Idempotency.keep`."""
        table = self._mine(unit_of_work).table(TABLE)
        fingerprint, _, created_at = table[key]
        table[key] = (fingerprint, response, created_at)

    async def clean(self, limit: int, /) -> int:
        """See `Idempotency.clean`."""
        rows, now = self._database.tables.get(TABLE, {}), self._clock()
        old = (key for key, row in rows.items() if is_expired(row[2], now, self.keep_seconds))
        forgotten = list(islice(old, limit))
        for key in forgotten:
            del rows[key]
        return len(forgotten)

    def _mine(self, unit_of_work: UnitOfWork) -> InMemoryUnitOfWork:
        if not isinstance(unit_of_work, InMemoryUnitOfWork) or unit_of_work.database is not self._database:
            raise UnitOfWorkMismatchError(self, unit_of_work)
        return unit_of_work
