"""SqlAlchemyUnitOfWork: a unit of work on an SQLAlchemy session."""

from collections.abc import Sequence
from typing import Any

import msgspec
import structlog
from sqlalchemy import Connection, Engine, event, insert
from sqlalchemy.exc import DBAPIError, OperationalError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, AsyncSession, AsyncSessionTransaction
from sqlalchemy.orm import Session
from sqlalchemy.util import await_only

from mediator.ambient import running_fields
from mediator.context import IdFactory, new_id
from mediator.distributed.cloudevents import CloudEvent
from mediator.distributed.serialization import EventCodec
from mediator.distributed.shield import finish
from mediator.distributed.transaction import UnitOfWorkState
from mediator.distributed.unit_of_work import UnitOfWork
from mediator.errors import (
    CommitOutcomeUnknownError,
    IsolationNotSupportedError,
    SchemaMissingError,
    TransactionOwnershipError,
    UnitOfWorkRunningError,
)
from mediator.msgspec import MsgspecCodec
from mediator.sqlalchemy.engine import database_of
from mediator.sqlalchemy.schema import outbox

_OWNER = "mediator_unit_of_work"


class _Session(Session):
    """A session that takes its connection from the unit of work, and leaves commit and rollback to it."""

    def get_bind(self, *_args: Any, **_kwargs: Any) -> Engine | Connection:
        owner: SqlAlchemyUnitOfWork = self.info[_OWNER]
        return owner.bind()


class SqlAlchemyUnitOfWork(UnitOfWork):
    """One per scope: `unit_of_work = Scoped(SqlAlchemyUnitOfWork, engine)`.

    Nothing is taken from the database until the first statement: the writer's lock, a connection and BEGIN come then.
    Outside a running transaction the session reads only; writing raises `NoUnitOfWorkError`.

    Args:
        engine: From `open_engine`, or any asynchronous engine on SQLite.
        codec: Writes and reads the payloads of events; JSON through msgspec by default.
        max_event_bytes: The largest payload of an event, in bytes.
        commit_timeout: How long to wait for the database's answer to COMMIT or ROLLBACK, in seconds.
        ids: Makes transaction ids.
    """

    def __init__(
        self,
        engine: AsyncEngine,
        *,
        codec: EventCodec | None = None,
        max_event_bytes: int = 1_000_000,
        commit_timeout: float = 30.0,
        ids: IdFactory = new_id,
    ) -> None:
        super().__init__(
            codec=codec or MsgspecCodec(), max_event_bytes=max_event_bytes, commit_timeout=commit_timeout, ids=ids
        )
        self._database = database_of(engine)
        self._session: AsyncSession | None = None
        self._savepoints: list[AsyncSessionTransaction] = []
        self._holds_lock = False
        self._staged = False
        self._own = False

    @property
    def session(self) -> AsyncSession:
        """The session of this scope, the same through all its transactions. It is never committed by a handler."""
        if self._session is None:
            self._session = AsyncSession(
                self._database.engine, sync_session_class=_Session, info={_OWNER: self}, expire_on_commit=False
            )
        return self._session

    async def connection(self) -> AsyncConnection:
        """The connection of the running transaction, for statements without the ORM."""
        return await self.session.connection()

    def bind(self) -> Engine:
        """The engine for the session's next transaction; takes the writer's lock for one that writes.

        Called by the session, inside the greenlet in which SQLAlchemy runs its synchronous half.
        """
        if self.state is UnitOfWorkState.IDLE and not self.settling:
            return self._database.reader.sync_engine
        if not self._holds_lock:
            await_only(self._database.lock.acquire(self))
            self._holds_lock = True
        return self._database.writer.sync_engine

    def doom_by_database(self, error: BaseException) -> None:
        """Doom what runs, unless the error is confined to a savepoint that the handler set itself."""
        if self._session is None:
            return
        nested = self._session.sync_session.get_nested_transaction()
        ours = self._savepoints[-1].sync_transaction if self._savepoints else None
        if nested is ours:
            self.doom("a statement", error)

    def check_ownership(self, operation: str, nested: object) -> None:
        """Refuse a commit or rollback of the whole that is not the unit of work's own.

        Raises:
            TransactionOwnershipError: It is the handler's.
        """
        if self._own or self.state is UnitOfWorkState.IDLE:
            return
        ours = self._savepoints[-1].sync_transaction if self._savepoints else None
        if nested is ours:
            error = TransactionOwnershipError(operation, self.transaction_id)
            self.doom(f"session.{operation}()", error)
            raise error

    async def aclose(self) -> None:
        """End what the session reads and give its connection back. Called at the end of the scope."""
        if self._session is None or self.settling:
            return
        done = await finish(self._session.close(), 10.0)
        if done.cancellation is not None:
            raise done.cancellation

    # The port.

    async def prepare(self, isolation: str | None) -> None:
        """See `DatabaseTransaction.prepare`. SQLite's transactions are serializable."""
        if isolation not in (None, "SERIALIZABLE"):
            raise IsolationNotSupportedError(self._database.name, isolation)
        if self.settling:
            raise UnitOfWorkRunningError("whose COMMIT is not answered yet")
        self._staged = False
        if self._session is not None and self._session.in_transaction():
            await self._session.commit()

    async def flush(self) -> None:
        """See `DatabaseTransaction.flush`."""
        if self._session is not None:
            await self._session.flush()

    async def stage(self, events: Sequence[CloudEvent]) -> None:
        """See `DatabaseTransaction.stage`.

        Raises:
            SchemaMissingError: The outbox table does not exist.
        """
        connection = await self.session.connection()
        try:
            await connection.execute(insert(outbox), [_row(cloud_event) for cloud_event in events])
        except OperationalError as error:
            if "no such table" in str(error.orig):
                raise SchemaMissingError(self._database.name, outbox.name) from error
            raise
        self._staged = True

    async def commit_transaction(self, transaction_id: str) -> None:
        """See `DatabaseTransaction.commit_transaction`."""
        self._own = True
        try:
            if self._session is not None:
                await self._session.commit()
        except DBAPIError as error:
            await self.roll_back_transaction()
            if error.connection_invalidated:
                raise CommitOutcomeUnknownError(transaction_id, str(error.orig)) from error
            raise
        except BaseException:
            await self.roll_back_transaction()
            raise
        finally:
            self._free()
        if self._staged:
            self._database.wake()

    async def roll_back_transaction(self) -> None:
        """See `DatabaseTransaction.roll_back_transaction`."""
        self._own = True
        try:
            if self._session is not None:
                await self._session.rollback()
        except DBAPIError as error:  # the connection is lost, and with it the transaction
            structlog.get_logger("mediator").warning("rollback failed", error=type(error).__name__, **running_fields())
            if self._session is not None:
                await self._session.invalidate()
        finally:
            self._free()

    def _free(self) -> None:
        """The database has answered: others may write."""
        self._own = False
        self._savepoints.clear()
        if self._holds_lock:
            self._holds_lock = False
            self._database.lock.release()

    async def set_savepoint(self) -> AsyncSessionTransaction:
        """See `DatabaseTransaction.set_savepoint`."""
        await self.session.connection()
        savepoint = await self.session.begin_nested()
        self._savepoints.append(savepoint)
        return savepoint

    async def release_savepoint(self, savepoint: AsyncSessionTransaction) -> None:
        """See `DatabaseTransaction.release_savepoint`."""
        self._own = True
        try:
            await savepoint.commit()
        finally:
            self._own = False
        self._savepoints.remove(savepoint)

    async def roll_back_to_savepoint(self, savepoint: AsyncSessionTransaction) -> None:
        """See `DatabaseTransaction.roll_back_to_savepoint`."""
        self._own = True
        try:
            await savepoint.rollback()
        finally:
            self._own = False
            self._savepoints.remove(savepoint)


def _row(cloud_event: CloudEvent) -> dict[str, Any]:
    return {
        "id": cloud_event.id,
        "type": cloud_event.type,
        "time": cloud_event.time.isoformat(),
        "partition_key": cloud_event.partitionkey,
        "bucket": cloud_event.bucket,
        "content_type": cloud_event.datacontenttype,
        "extensions": msgspec.json.encode(dict(cloud_event.extensions)).decode(),
        "data": cloud_event.data,
    }


def _before_commit(session: _Session) -> None:
    owner: SqlAlchemyUnitOfWork = session.info[_OWNER]
    owner.check_ownership("commit", session.get_nested_transaction())


def _after_rollback(session: _Session) -> None:
    owner: SqlAlchemyUnitOfWork = session.info[_OWNER]
    if session.get_nested_transaction() is None and owner.state is UnitOfWorkState.ACTIVE:
        owner.check_ownership("rollback", None)


event.listen(_Session, "before_commit", _before_commit)
event.listen(_Session, "after_rollback", _after_rollback)
