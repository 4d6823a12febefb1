"""InMemoryIdempotency: the responses of commands by idempotency key, in an `InMemoryDatabase`."""

from itertools import islice

from mediator.distributed.idempotency import Idempotency, KeptResponse, is_expired
from mediator.distributed.requests import RequestCodec
from mediator.distributed.unit_of_work import UnitOfWork
from mediator.msgspec import MsgspecRequestCodec
from mediator.testing.memory.database import InMemoryDatabase, in_database

TABLE = "mediator_idempotency"
"""The name of the table. A row maps an idempotency key to a fingerprint, a response and the time of the claim."""


class InMemoryIdempotency(Idempotency):
    """Keeps responses of commands in an `InMemoryDatabase`.

        idempotency = providers.Singleton(InMemoryIdempotency, database)

    Args:
        database: The database of the unit of work.
        codec: The codec of the responses; `MsgspecRequestCodec` by default.
        keep_seconds: Seconds for which a response is kept; one day by default.
        clean_interval: How often a worker of the container deletes expired responses, in seconds.
    """

    def __init__(
        self,
        database: InMemoryDatabase,
        *,
        codec: RequestCodec | None = None,
        keep_seconds: float = 86_400.0,
        clean_interval: float = 60.0,
    ) -> None:
        super().__init__(codec or MsgspecRequestCodec(), keep_seconds=keep_seconds, clean_interval=clean_interval)
        self._database = database

    async def claim(self, unit_of_work: UnitOfWork, key: str, fingerprint: str, /) -> KeptResponse | None:
        """Claim a key. Raises `MisuseError` for a unit of work on another database."""
        mine = in_database(self._database, unit_of_work, self)
        self._database.check_available()
        await mine.lock((TABLE, key))
        kept = await self.find(unit_of_work, key)
        if kept is None:
            mine.table(TABLE)[key] = (fingerprint, b"", self._database.now())
        return kept

    async def find(self, unit_of_work: UnitOfWork, key: str, /) -> KeptResponse | None:
        now = self._database.now()
        table = in_database(self._database, unit_of_work, self).table(TABLE)
        fingerprint, response, created_at = table.get(key, ("", b"", now))
        valid = response and not is_expired(created_at, now, self.keep_seconds)
        return KeptResponse(fingerprint, response) if valid else None

    async def keep(self, unit_of_work: UnitOfWork, key: str, response: bytes, /) -> None:
        table = in_database(self._database, unit_of_work, self).table(TABLE)
        fingerprint, _, created_at = table[key]
        table[key] = (fingerprint, response, created_at)

    async def clean(self, limit: int, /) -> int:
        rows, now = self._database.tables.get(TABLE, {}), self._database.now()
        old = (key for key, row in rows.items() if is_expired(row[2], now, self.keep_seconds))
        forgotten = list(islice(old, limit))
        for key in forgotten:
            del rows[key]
        return len(forgotten)
