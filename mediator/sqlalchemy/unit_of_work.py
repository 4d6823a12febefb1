"""SqlAlchemyUnitOfWork: a unit of work on an SQLAlchemy session."""

import asyncio
from collections.abc import Sequence
from weakref import WeakSet

from sqlalchemy import Connection, Engine
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, AsyncSession, AsyncSessionTransaction
from sqlalchemy.orm import SessionTransaction
from sqlalchemy.util import await_only

from mediator.ambient import running_fields
from mediator.context import IdFactory, new_id
from mediator.distributed import failpoints
from mediator.distributed.events import EventCodec
from mediator.distributed.shield import finish
from mediator.distributed.unit_of_work import StagedEvent, UnitOfWork, UnitOfWorkState, count_waiting, lack_of_storing
from mediator.errors import CommitOutcomeUnknownError, CommittedError, misuse
from mediator.logger import Logger
from mediator.msgspec import MsgspecCodec
from mediator.scope import current_frame
from mediator.settings import check_counts
from mediator.sqlalchemy.database import OWNER
from mediator.sqlalchemy.detached_objects import State
from mediator.sqlalchemy.engine import database_of
from mediator.sqlalchemy.session import BUSY_SECONDS, OwnedSession, when_idle
from mediator.sqlalchemy.staging import backlog_of, stage_events


class SqlAlchemyUnitOfWork(UnitOfWork):
    """A unit of work on an SQLAlchemy session.

    Each scope has its own unit of work: `unit_of_work = Scoped(SqlAlchemyUnitOfWork, engine)`. A transaction
    takes SQLite's writer lock and a connection, and sends BEGIN, only when its first statement runs. Outside a running
    transaction, the session can only read, and writing raises `NoUnitOfWorkError`. The commit of events raises
    `SchemaError` when the table of the outbox does not exist.

    Args:
        engine: From `open_engine`, or any asynchronous engine on SQLite or on PostgreSQL through asyncpg.
        codec: Writes and reads the payloads of events; JSON through msgspec by default.
        max_event_bytes: The largest payload of an event, in bytes.
        max_pending: How many events may wait in the outbox, not counting delayed events; `None` for any number. A
            command that adds more events fails. The events are counted about once a second, so several processes
            together can exceed the limit.
        max_domain_events: How many domain events one transaction may publish; `None` for any number.
        commit_timeout: How long to wait for the database's answer to COMMIT or ROLLBACK, in seconds.
        ids: Returns a new transaction id.

    Raises:
        SettingError: A number is out of range.
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
        self._savepoints: dict[AsyncSessionTransaction, WeakSet[State]] = {}
        self._taking_turn = asyncio.Lock()
        self._holds_turn = self._has_ended = False
        self._committing: Connection | None = None
        self._closed = self._staged = self._is_ending = False
        self._writer: AsyncEngine = self._database.writer
        self._reader: AsyncEngine | None = None

    @property
    def place(self) -> str:
        return self._database.name

    @property
    def session(self) -> AsyncSession:
        """The session that all transactions of this scope use. A handler must not commit the session."""
        if self._session is None:
            self._session = AsyncSession(
                self._database.engine, sync_session_class=OwnedSession, info={OWNER: self}, expire_on_commit=False
            )
            self.join_scope()
        return self._session

    @property
    def _held(self) -> OwnedSession | None:
        """The synchronous session inside the `AsyncSession`; `None` while there is no session."""
        held = None if self._session is None else self._session.sync_session
        return held if isinstance(held, OwnedSession) else None

    async def connection(self) -> AsyncConnection:
        """Return the connection of the running transaction, for statements without the ORM."""
        return await self.session.connection()

    def bind(self) -> Engine:
        """Return the engine for the session's next transaction. Take the writer lock if the transaction can write.

        The session calls this method inside the greenlet in which SQLAlchemy runs the synchronous session.

        Raises:
            ScopeError: The unit of work is closed.
            NoUnitOfWorkError: The transaction ended while the caller waited for the writer lock.
        """
        if self._closed:
            frame = current_frame()
            raise misuse.scope_closed(frame.message if frame is not None else "the session")
        if self.state is UnitOfWorkState.IDLE and not self.settling:
            return (self._reader or self._database.reader).sync_engine
        if not self._holds_turn:
            await_only(self._take_turn())
        return self._writer.sync_engine

    async def _take_turn(self) -> None:
        """Wait for the writer lock.

        The caller may be a task that a handler has not awaited. If the transaction ends while this task waits, the task
        takes the lock and releases the lock at once.
        """
        running, acquired = self._running, False
        async with self._taking_turn:
            if not self._holds_turn and not self._has_ended and self._running is running:
                await self._database.take_turn(self)
                self._holds_turn = acquired = True
            if self._has_ended or self._running is not running:
                if acquired:
                    self._give_up_turn()
                raise misuse.no_unit_of_work("A statement of a transaction that has ended")

    def doom_by_database(self, error: BaseException, *, lost: bool = False) -> None:
        """After an error of the database, doom the running transaction (make its commit impossible).

        If the handler itself has set a savepoint, an error inside the savepoint does not doom the transaction. The
        handler can roll back to the savepoint. A lost connection (`lost`) always dooms the transaction.
        """
        if self._session is None:
            return
        if lost or self._session.sync_session.get_nested_transaction() is self._own_savepoint:
            self.doom("a statement", error)

    @property
    def _own_savepoint(self) -> SessionTransaction | None:
        """The innermost savepoint that the unit of work itself has set."""
        innermost = next(reversed(self._savepoints), None)
        return None if innermost is None else innermost.sync_transaction

    def check_ownership(self, operation: str) -> None:
        """Refuse an operation that would end the whole transaction, unless the unit of work itself calls the operation.

        Raises:
            MisuseError: A handler calls the operation while a transaction runs.
        """
        if not self._is_ending and self.state is not UnitOfWorkState.IDLE:
            error = misuse.session_ended(operation, self.transaction_id)
            self.doom(f"session.{operation}()", error)
            raise error

    def check_commit(self, nested: object) -> None:
        """Refuse a commit as `check_ownership` does, unless the commit only releases a savepoint of a handler."""
        if nested is self._own_savepoint:
            self.check_ownership("commit")

    def check_writing(self) -> None:
        """While no transaction runs, raise a `NoUnitOfWorkError` for an unwritten object or an unpublished event."""
        if self.state is UnitOfWorkState.IDLE and not self.settling:
            self.check_stored()

    async def aclose(self) -> None:
        """Close the session and return its connection to the pool. Called at the end of the scope.

        Raises:
            NoUnitOfWorkError: An object is still unwritten, or an event is still unpublished.
        """
        if self.settling:
            return
        left = self.unstored
        self._closed = True
        try:
            await failpoints.reach("unit_of_work.before_close")
        finally:
            if self._session is not None:
                done = await finish(when_idle(self._session.close), 2 * BUSY_SECONDS)
                if done.cancellation is not None:
                    raise done.cancellation
        if left:
            raise lack_of_storing(left)

    @property
    def unwritten(self) -> Sequence[str]:
        return self._held.unwritten if self._held is not None else ()

    # The methods of the port `DatabaseTransaction` follow.

    @property
    def application(self) -> str | None:
        return self._database.application

    async def prepare(self, isolation: str | None) -> None:
        """Prepare the next transaction, at the requested isolation level. On SQLite, each transaction is serializable.

        Raises:
            MisuseError: The database does not support the isolation level, or has not yet answered the COMMIT of the
                last transaction.
            NoUnitOfWorkError: An object was changed outside a transaction, and is unwritten.
        """
        self._database.owner.check()
        writer = self._database.writer_at(isolation)
        await self._begin_anew()
        self._staged = self._has_ended = False
        self._writer = writer  # fixed during the transaction: another engine would use another connection

    async def _begin_anew(self) -> None:
        """End the transaction of earlier reads, if any; detach all objects, so that the next transaction reloads them."""
        if self.settling:
            raise misuse.still_ending(self)
        if self._session is None or self._held is None:
            return
        self.check_written()
        if self._session.in_transaction():
            await self._session.commit()
        self._held.let_go()

    async def end_what_is_read(self) -> None:
        if not self.settling:
            await self._begin_anew()

    async def begin_reading(self, isolation: str | None) -> None:
        self._database.owner.check()
        reader = self._database.reader_at(isolation)
        await self._begin_anew()
        self._reader = reader

    async def end_reading(self, error: BaseException | None) -> None:
        # The commit of a reading transaction keeps loaded objects usable; a rollback expires the objects.
        try:
            if self._session is not None:
                left = self.unwritten
                done = await finish(
                    self._end_reading(self._session, keep=error is None and not left), self._commit_timeout
                )
                failure = done.cancellation or (done.failure if error is None else None)
                if failure is not None:
                    raise failure
                if left and error is None:
                    raise lack_of_storing(left)
        finally:
            self._reader = None
            self._end_what_is_held()

    async def _end_reading(self, session: AsyncSession, *, keep: bool) -> None:
        try:
            if keep:
                await when_idle(session.commit)
        finally:
            await when_idle(session.rollback)

    async def flush(self) -> None:
        if self._session is not None:
            await self._session.flush()

    async def stage(self, events: Sequence[StagedEvent]) -> None:
        connection = await self.session.connection()
        if self._max_pending is not None:
            adding = count_waiting(events, self._max_pending)
            await backlog_of(self._database).admit(connection, adding, self._max_pending)
        await stage_events(connection, events)
        self._staged = True

    async def commit_transaction(self, transaction_id: str) -> None:
        self._is_ending, self._committing = True, None
        failure: BaseException | None = None
        try:
            if self._session is not None:
                async with self._database.patience(self._commit_timeout):
                    await self._session.commit()
        except BaseException as error:
            if not self._has_committed():
                await self.roll_back_transaction()
                if (unknown := self._unknown_outcome(transaction_id, error)) is not None:
                    raise unknown from error
                raise
            failure = error  # COMMIT succeeded, but a listener or the return of the connection to the pool failed
            await self._abandon_session()
        try:
            self._free()
            await failpoints.reach("unit_of_work.before_wake")
        except Exception as error:
            failure = failure or error
        if self._staged:
            self._database.wake()
        if failure is not None:
            raise CommittedError(transaction_id, None) from failure

    def _unknown_outcome(self, transaction_id: str, error: BaseException) -> CommitOutcomeUnknownError | None:
        if isinstance(error, DBAPIError) and error.connection_invalidated:
            return CommitOutcomeUnknownError(transaction_id, str(error.orig))
        if isinstance(error, TimeoutError):
            reason = f"the database did not answer within {self._commit_timeout:g} s"
            return CommitOutcomeUnknownError(transaction_id, reason)
        return None

    def commit_begins(self, connection: Connection) -> None:
        """Record the connection on which COMMIT will now be sent."""
        self._committing = connection

    def _has_committed(self) -> bool:
        """Return whether the database has confirmed COMMIT. At the confirmation, SQLAlchemy drops its transaction object."""
        return self._committing is not None and self._committing.get_transaction() is None

    async def _abandon_session(self) -> None:
        """Close the session after an error that followed a successful COMMIT."""
        if self._session is None:
            return
        self._is_ending = True
        try:
            await when_idle(self._session.close)
        except Exception:  # the connection cannot be used again
            await self._session.invalidate()

    async def roll_back_transaction(self) -> None:
        self._is_ending = True
        try:
            if self._session is not None:
                async with self._database.patience(self._commit_timeout):
                    await when_idle(self._session.rollback)
        except (DBAPIError, TimeoutError) as error:  # the connection is lost, and the transaction with it
            Logger().warning("rollback failed", error=type(error).__name__, **running_fields())
            if self._session is not None:
                await self._session.invalidate()
        finally:
            if self._held is not None:
                self._held.detached.undo_changes()
                self._held.detached.undo_returns()
            self._free()

    def _free(self) -> None:
        """Release everything that the transaction held, including the writer lock.

        Called after the database has answered COMMIT or ROLLBACK, or after the connection was lost.
        """
        self._is_ending = False
        self._has_ended = True
        self._savepoints.clear()
        self._end_what_is_held()
        self._give_up_turn()

    def _end_what_is_held(self) -> None:
        if self._held is not None:
            self._held.end()

    def _give_up_turn(self) -> None:
        if self._holds_turn:
            self._holds_turn = False
            self._database.end_turn()

    async def set_savepoint(self) -> AsyncSessionTransaction:
        await self.session.connection()
        savepoint = await self.session.begin_nested()
        self._savepoints[savepoint] = self._held.detached.mark() if self._held is not None else WeakSet()
        return savepoint

    async def release_savepoint(self, savepoint: AsyncSessionTransaction) -> None:
        self._is_ending = True
        try:
            await savepoint.commit()
        finally:
            self._is_ending = False
        del self._savepoints[savepoint]

    async def roll_back_to_savepoint(self, savepoint: AsyncSessionTransaction) -> None:
        self._is_ending = True
        mark = self._savepoints.pop(savepoint)
        try:
            await savepoint.rollback()
            if self._held is not None:
                self._held.detached.undo_changes()
                self._held.detached.expire_since(mark)
        finally:
            self._is_ending = False
