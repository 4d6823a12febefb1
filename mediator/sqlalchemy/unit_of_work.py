"""SqlAlchemyUnitOfWork: a unit of work on an SQLAlchemy session."""

import asyncio
from collections.abc import Sequence

import structlog
from sqlalchemy import Engine
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, AsyncSession, AsyncSessionTransaction
from sqlalchemy.util import await_only

from mediator.ambient import running_fields
from mediator.context import IdFactory, new_id
from mediator.distributed.bounds import check_counts
from mediator.distributed.serialization import EventCodec
from mediator.distributed.shield import finish
from mediator.distributed.staging import StagedEvent, count_waiting
from mediator.distributed.transaction import UnitOfWorkState
from mediator.distributed.unit_of_work import UnitOfWork
from mediator.errors import (
    CommitOutcomeUnknownError,
    NoUnitOfWorkError,
    ScopeClosedError,
    TransactionOwnershipError,
    UnitOfWorkRunningError,
)
from mediator.msgspec import MsgspecCodec
from mediator.scope import current_frame
from mediator.sqlalchemy.aggregates import AggregateSession
from mediator.sqlalchemy.backlog import backlog_of
from mediator.sqlalchemy.engine import database_of
from mediator.sqlalchemy.session import BUSY_SECONDS, OWNER, when_idle
from mediator.sqlalchemy.staging import stage_events


class SqlAlchemyUnitOfWork(UnitOfWork):
    """One per scope: `unit_of_work = Scoped(SqlAlchemyUnitOfWork, engine)`.

    Nothing is taken from the database until the first statement: SQLite's writer lock, a connection and BEGIN come then.
    Outside a running transaction the session reads only; writing raises `NoUnitOfWorkError`.

    Args:
        engine: From `open_engine`, or any asynchronous engine on SQLite or on PostgreSQL through asyncpg.
        codec: Writes and reads the payloads of events; JSON through msgspec by default.
        max_event_bytes: The largest payload of an event, in bytes.
        max_pending: How many events may wait in the outbox, delayed ones not counted; more fail the command that adds
            them. It is looked up about once a second, so that other processes may go beyond it. `None` for any number.
        max_domain_events: How many domain events one transaction may publish; `None` for any number.
        commit_timeout: How long to wait for the database's answer to COMMIT or ROLLBACK, in seconds.
        ids: Makes transaction ids.

    Raises:
        SettingError: A number cannot work.
    """

    def __init__(
        self,
        engine: AsyncEngine,
        *,
        codec: EventCodec | None = None,
        max_event_bytes: int = 1_000_000,
        max_pending: int | None = None,
        max_domain_events: int | None = 10_000,
        commit_timeout: float = 30.0,
        ids: IdFactory = new_id,
    ) -> None:
        super().__init__(
            codec=codec or MsgspecCodec(),
            max_event_bytes=max_event_bytes,
            max_domain_events=max_domain_events,
            commit_timeout=commit_timeout,
            ids=ids,
        )
        check_counts(max_pending=max_pending)
        self._database = database_of(engine)
        self._max_pending = max_pending
        self._session: AsyncSession | None = None
        self._savepoints: list[AsyncSessionTransaction] = []
        self._locking = asyncio.Lock()
        self._holds_turn = self._answered = False
        self._closed = self._staged = self._own = False
        self._isolation: str | None = None
        self._reader: AsyncEngine | None = None

    @property
    def session(self) -> AsyncSession:
        """The session of this scope, the same through all its transactions. It is never committed by a handler."""
        if self._session is None:
            self._session = AsyncSession(
                self._database.engine, sync_session_class=AggregateSession, info={OWNER: self}, expire_on_commit=False
            )
        return self._session

    async def connection(self) -> AsyncConnection:
        """The connection of the running transaction, for statements without the ORM."""
        return await self.session.connection()

    def bind(self) -> Engine:
        """The engine for the session's next transaction; takes the writer's turn for one that writes.

        Called by the session, inside the greenlet in which SQLAlchemy runs its synchronous half.
        """
        if self._closed:
            frame = current_frame()
            raise ScopeClosedError(frame.message if frame is not None else "the session")
        if self.state is UnitOfWorkState.IDLE and not self.settling:
            return (self._reader or self._database.reader).sync_engine
        if not self._holds_turn:
            await_only(self._take_turn())
        return self._database.writer_at(self._isolation).sync_engine

    async def _take_turn(self) -> None:
        """Wait for the right to write. A forgotten task, whose transaction ended meanwhile, gives it up at once."""
        running, acquired = self._running, False
        async with self._locking:
            if not self._holds_turn and not self._answered and self._running is running:
                await self._database.take_turn(self)
                self._holds_turn = acquired = True
            if self._answered or self._running is not running:
                if acquired:
                    self._give_up_turn()
                raise NoUnitOfWorkError("A statement of a transaction that has ended")

    def doom_by_database(self, error: BaseException, *, lost: bool = False) -> None:
        """Doom what runs, unless the error is confined to a savepoint that the handler set itself.

        A connection that was lost took everything with it, whatever the savepoint.
        """
        if self._session is None:
            return
        nested = self._session.sync_session.get_nested_transaction()
        ours = self._savepoints[-1].sync_transaction if self._savepoints else None
        if nested is ours or lost:
            self.doom("a statement", error)

    def check_ownership(self, operation: str) -> None:
        """Refuse what would end the whole transaction, when it is not the unit of work that does it.

        Raises:
            TransactionOwnershipError: It is the handler.
        """
        if not self._own and self.state is not UnitOfWorkState.IDLE:
            error = TransactionOwnershipError(operation, self.transaction_id)
            self.doom(f"session.{operation}()", error)
            raise error

    def check_commit(self, nested: object) -> None:
        """Refuse a commit of more than a savepoint that the handler set itself.

        Raises:
            TransactionOwnershipError: It is the handler's.
        """
        if nested is (self._savepoints[-1].sync_transaction if self._savepoints else None):
            self.check_ownership("commit")

    async def aclose(self) -> None:
        """End what the session reads and give its connection back. Called at the end of the scope."""
        if self._session is None or self.settling:
            return
        self._closed = True
        done = await finish(when_idle(self._session.close), 2 * BUSY_SECONDS)
        if done.cancellation is not None:
            raise done.cancellation

    # The port.

    async def prepare(self, isolation: str | None) -> None:
        """See `DatabaseTransaction.prepare`. SQLite's transactions are serializable, PostgreSQL's are what is asked for."""
        self._database.writer_at(isolation)
        if self.settling:
            raise UnitOfWorkRunningError("whose COMMIT is not answered yet")
        self._staged = self._answered = False
        self._isolation = isolation
        if self._session is not None and self._session.in_transaction():
            await self._session.commit()

    async def begin_reading(self, isolation: str | None) -> None:
        """See `DatabaseTransaction.begin_reading`."""
        reader = self._database.reader_at(isolation)
        if self.settling:
            raise UnitOfWorkRunningError("whose COMMIT is not answered yet")
        if self._session is not None and self._session.in_transaction():
            await self._session.commit()
        self._reader = reader

    async def end_reading(self, error: BaseException | None) -> None:
        """See `DatabaseTransaction.end_reading`. What was loaded stays usable, unless the query failed."""
        try:
            if self._session is not None:
                done = await finish(self._end_reading(self._session, keep=error is None), self._commit_timeout)
                failure = done.cancellation or (done.failure if error is None else None)
                if failure is not None:
                    raise failure
        finally:
            self._reader = None

    async def _end_reading(self, session: AsyncSession, *, keep: bool) -> None:
        try:
            if keep:
                await when_idle(session.commit)
        finally:
            await when_idle(session.rollback)

    async def flush(self) -> None:
        """See `DatabaseTransaction.flush`."""
        if self._session is not None:
            await self._session.flush()

    async def stage(self, events: Sequence[StagedEvent]) -> None:
        """See `DatabaseTransaction.stage`.

        Raises:
            EventIdConflictError: An id is in the outbox already, or twice among the events.
            SchemaMissingError: The outbox table does not exist.
        """
        connection = await self.session.connection()
        if self._max_pending is not None:
            adding = count_waiting(events, self._max_pending)
            await backlog_of(self._database).admit(connection, adding, self._max_pending)
        await stage_events(connection, events)
        self._staged = True

    async def commit_transaction(self, transaction_id: str) -> None:
        """See `DatabaseTransaction.commit_transaction`."""
        self._own = True
        try:
            if self._session is not None:
                async with self._database.patience(self._commit_timeout):
                    await self._session.commit()
        except DBAPIError as error:
            await self.roll_back_transaction()
            if error.connection_invalidated:
                raise CommitOutcomeUnknownError(transaction_id, str(error.orig)) from error
            raise
        except TimeoutError as error:
            await self.roll_back_transaction()
            reason = f"the database did not answer within {self._commit_timeout:g} s"
            raise CommitOutcomeUnknownError(transaction_id, reason) from error
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
                async with self._database.patience(self._commit_timeout):
                    await when_idle(self._session.rollback)
        except (DBAPIError, TimeoutError) as error:  # the connection is lost, and with it the transaction
            structlog.get_logger("mediator").warning("rollback failed", error=type(error).__name__, **running_fields())
            if self._session is not None:
                await self._session.invalidate()
        finally:
            self._free()

    def _free(self) -> None:
        """The database has answered: others may write."""
        self._own = False
        self._answered = True
        self._savepoints.clear()
        self._give_up_turn()

    def _give_up_turn(self) -> None:
        if self._holds_turn:
            self._holds_turn = False
            self._database.end_turn()

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
