"""UnitOfWork: runs database transactions, one at a time, and sends their events only after the commit."""

import asyncio
import math
from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine, Sequence
from dataclasses import replace
from types import TracebackType
from typing import Any, Self

from mediator.blocks import asynccontextmanager
from mediator.context import IdFactory, new_id
from mediator.distributed import failpoints
from mediator.distributed.cloudevents import CloudEvent
from mediator.distributed.events import DistributedEvent, EventCodec
from mediator.distributed.shield import Shielded, finish
from mediator.distributed.storable import LONGEST_MEDIA_TYPE
from mediator.distributed.unit_of_work.aggregates import AggregateTracker
from mediator.distributed.unit_of_work.read_only import (
    described,
    lack_of_storing,
    lack_of_unit_of_work,
    refuse_in_read_only,
)
from mediator.distributed.unit_of_work.running import CollectedEvent, RunningTransaction, UnitOfWorkState
from mediator.distributed.unit_of_work.staging import StagedEvent
from mediator.errors import AfterCommitError, CommitOutcomeUnknownError, CommittedError, RolledBackError, misuse
from mediator.errors.root import name_of
from mediator.logger import Logger
from mediator.printable import shown_error
from mediator.scope import Frame, Scope, current_frame, current_scope
from mediator.settings import check_counts, check_positive, check_texts
from mediator.transactions import Outcome


class DatabaseTransaction(ABC):
    """The port to the transactions of a database.

    The methods are never called concurrently. When a method fails before the commit, its caller rolls back.

    Attributes:
        settling: `True` while the database has not answered a COMMIT or ROLLBACK yet. During this time nothing else may
            use the connection.
    """

    settling: bool = False

    @property
    def application(self) -> str | None:
        """The source of the events that are stored; `None` when the outbox sets the source later."""
        return None

    @abstractmethod
    async def prepare(self, isolation: str | None) -> None:
        """Prepare a transaction, without I/O if possible. Refuse an isolation level that is not supported."""

    async def end_what_is_read(self) -> None:  # noqa: B027  # the default discards nothing
        """Discard the objects that were read, because a transaction of another database begins in the scope.

        The new transaction must not act on data that was read earlier.

        Raises:
            NoUnitOfWorkError: The session holds changes.
        """

    @abstractmethod
    async def begin_reading(self, isolation: str | None) -> None:
        """Begin a read-only transaction, in which the database refuses to write. `end_reading` ends the transaction.

        Without an isolation level, all statements see the same state of the database.

        Raises:
            MisuseError: The database does not support the isolation level.
        """

    @abstractmethod
    async def end_reading(self, error: BaseException | None) -> None:
        """End the read-only transaction, in bounded time.

        Args:
            error: The error of the query, if it failed.

        Raises:
            NoUnitOfWorkError: The session holds changes, which nothing would write.
        """

    @property
    def unwritten(self) -> Sequence[str]:
        """For errors: the class of each unwritten object with the kind of change, such as `Order (new)`."""
        return ()

    @abstractmethod
    async def flush(self) -> None:
        """Write the pending changes of the session."""

    @abstractmethod
    async def stage(self, events: Sequence[StagedEvent]) -> None:
        """Store events in the outbox with one statement, which is the last statement before COMMIT.

        The events are numbered in the given order. Among all events with the same `locked_key`, the numbers also follow
        the order of the commits.

        Raises:
            EventIdConflictError: Two of the events have the same id, or the outbox has an event with one of the ids.
            OutboxFullError: Too many events wait in the outbox.
            EventLimitError: More events are given than may ever wait in the outbox.
        """

    @abstractmethod
    async def commit_transaction(self, transaction_id: str) -> None:
        """Commit, or roll back when the commit fails. Release all resources, and wake the relay if events were staged.

        The caller may stop waiting before this method ends. `settling` is true until this method ends.

        Raises:
            CommitOutcomeUnknownError: The database's answer was lost.
            CommittedError: The database committed, but an error followed, for example in a listener of the application
                or in the release of a lock. That error is the `__cause__`.
        """

    @abstractmethod
    async def roll_back_transaction(self) -> None:
        """Roll back and release all resources, also after a commit that failed or has an unknown outcome.

        A lost connection raises no error.
        """

    @abstractmethod
    async def set_savepoint(self) -> Any:
        """Set a savepoint and return a handle that identifies it."""

    @abstractmethod
    async def release_savepoint(self, savepoint: Any) -> None:
        """Write the pending changes of the session, and keep all work since the savepoint."""

    @abstractmethod
    async def roll_back_to_savepoint(self, savepoint: Any) -> None:
        """Roll back all work since the savepoint."""


_UNITS = "mediator_units_of_work"
"""The key under which a scope keeps the units of work whose sessions may hold changes."""

AfterCommit = Callable[[Sequence[CloudEvent]], Coroutine[Any, Any, None]]


class UnitOfWork(DatabaseTransaction, AggregateTracker):
    """Runs the transactions of one scope, one after the other. Each kind of database has its own subclass.

    `DistributedUnitOfWorkBehavior` runs a unit of work around a command. A script can run a unit of work itself, with
    the same guarantees: `async with mediator.scope(): async with unit_of_work: ...`.

    Args:
        codec: Encodes and decodes the payloads of events.
        max_event_bytes: The largest payload of an event, in bytes.
        max_domain_events: How many domain events one transaction may publish; `None` for any number.
        commit_timeout: How long to wait for the database's answer to COMMIT or ROLLBACK, in seconds.
        ids: Makes transaction ids.
    """

    def __init__(
        self,
        *,
        codec: EventCodec,
        max_event_bytes: int = 1_000_000,
        max_domain_events: int | None = 10_000,
        commit_timeout: float = 30.0,
        ids: IdFactory = new_id,
    ) -> None:
        super().__init__()
        check_positive(max_event_bytes=max_event_bytes, commit_timeout=commit_timeout)
        check_counts(max_domain_events=max_domain_events)
        check_texts(longest=LONGEST_MEDIA_TYPE, content_type=codec.content_type)
        self.codec: EventCodec = codec
        self.settling: bool = False
        self._max_event_bytes = max_event_bytes
        self._max_domain_events = max_domain_events
        self._commit_timeout = commit_timeout
        self._ids = ids
        self._log: Logger = Logger()

    # The interface for applications.

    @property
    def state(self) -> UnitOfWorkState:
        """Whether a transaction runs, and whether that transaction may commit or can only be rolled back."""
        if self._running is None:
            return UnitOfWorkState.IDLE
        return UnitOfWorkState.ROLLBACK_ONLY if self._running.doom else UnitOfWorkState.ACTIVE

    @property
    def transaction_id(self) -> str:
        """The id of the running transaction, which also appears in the logs.

        Raises:
            NoUnitOfWorkError: No transaction runs.
        """
        return self._require("transaction_id").id

    @property
    def dispatch(self) -> Frame:
        """The dispatch that began the running transaction, and that receives the outcome of the transaction.

        Raises:
            NoUnitOfWorkError: No transaction runs.
        """
        return self._require("dispatch").dispatch

    @property
    def pending_events(self) -> Sequence[DistributedEvent]:
        """The events collected so far; empty when no transaction runs."""
        return tuple(collected.event for collected in self._running.events) if self._running else ()

    def collect(self, collected: CollectedEvent) -> None:
        """Encode an event at once, and keep the event for the commit.

        Raises:
            NoUnitOfWorkError: No transaction runs, or the running transaction is already storing its events.
            EventNotSerializableError: The event cannot be encoded. The transaction can then only be rolled back.
        """
        running = self._require(collected.event)
        if running.sealed:
            raise misuse.no_unit_of_work(collected.event)
        try:
            data = self.codec.encode(collected.event)
        except Exception as error:
            self.doom(collected.event, error)  # no commit, even if the caller catches the error
            raise
        running.events.append(replace(collected, data=data))

    @property
    def unstored(self) -> Sequence[str]:
        """The unwritten objects and unpublished events, as texts for errors.

        Outside a transaction nothing writes these objects and nothing publishes these events.
        """
        return [*self.unwritten, *self.unpublished]

    def check_written(self) -> None:
        """Check that no object waits to be written.

        Raises:
            NoUnitOfWorkError: An object waits, but no transaction runs that could write the object.
        """
        if self.unwritten:
            raise lack_of_storing(self.unwritten)

    def check_stored(self) -> None:
        """Check that no object waits to be written, and that no recorded event waits to be published.

        Raises:
            NoUnitOfWorkError: An object or an event waits, but no transaction runs that could store anything.
        """
        if self.unstored:
            raise lack_of_storing(self.unstored)

    def join_scope(self) -> None:
        """Register this unit of work in the scope.

        Each commit in the scope checks the other registered units of work for changes that would be lost.
        """
        frame = current_frame()
        if frame is not None and not frame.closed:
            frame.scope.instances.setdefault(_UNITS, []).append(self)

    async def __aenter__(self) -> Self:
        """Begin a transaction. Logs name the transaction after the message that is being handled."""
        frame = current_frame()
        await self.begin(frame.message if frame is not None else "async with unit_of_work")
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Commit, or roll back when the body failed."""
        if error is None:
            await self.commit()
        else:
            await self.roll_back(error)

    @property
    def described(self) -> str:
        """The class, the database and the id of the running transaction, for errors."""
        return f"{type(self).__name__} of {self.place}, {self.transaction_id}"

    @property
    def place(self) -> str:
        """The name of the database, for errors."""
        return "a database"

    async def begin(self, message: object, *, isolation: str | None = None) -> None:
        """Begin a transaction. Nothing is sent to the database before the first statement.

        Raises:
            MisuseError: A transaction already runs in this scope, or this object runs a transaction in another scope.
            NoUnitOfWorkError: A query is being handled in this scope, or the session of another unit of work in this
                scope holds changes.
            ScopeError: Nothing is being dispatched.
        """
        scope, frame = current_scope("a unit of work"), current_frame()
        if frame is None:
            raise misuse.no_scope("a unit of work")
        refuse_in_read_only(message)
        if self._running is not None and self._running.scope is not scope:
            raise misuse.shared_by_dispatches(self._running.id, type(self).__name__)
        if self._running is not None:
            raise misuse.already_running(self._running.id)
        if scope.transaction is not None:
            raise misuse.another_running(described(scope.transaction))
        await self.prepare(isolation)
        for other in self._others(scope):
            await other.end_what_is_read()
        self._running = RunningTransaction(self._ids(), message, scope, frame, self._max_domain_events)
        self.take_over(self._running)
        scope.begin(self)
        flow = frame.context.log_fields()
        self._log.debug("transaction begun", transaction_id=self._running.id, message_type=name_of(message), **flow)

    async def commit(
        self, response: Any = None, *, then: AfterCommit | None = None, after_commit_timeout: float = 30.0
    ) -> None:
        """Write pending changes, publish domain events, store distributed events in the outbox, and commit.

        An error before COMMIT rolls the transaction back. From COMMIT on, a cancellation does not interrupt the work,
        and is raised again at the end.

        Args:
            response: The response of the command. The scope keeps the response together with the outcome.
            then: A function to call with the events right after the commit. With `then`, the events are not stored in
                the outbox. The function has to limit its own duration. Its errors are raised to the caller.
            after_commit_timeout: How long all calls added with `after_commit` may take together, in seconds.

        Raises:
            AfterCommitError: The transaction committed, but a call that was added with `after_commit` failed.
            CommittedError: The transaction committed, but an error followed.
            RolledBackError: A dispatch that joined the transaction failed, and its caller caught the error.
            NoUnitOfWorkError: The session of another unit of work in this scope holds changes that nothing would write.
            StaleObjectError: This transaction changed an object that was loaded in an earlier transaction. Since the
                object was loaded, another transaction has changed or deleted its row.
            CommitOutcomeUnknownError: The answer to COMMIT was lost or late.
            DispatchDepthError: Domain events cause each other without end, or there are more than `max_domain_events`
                domain events.
            EventError: An event cannot be stored.
        """
        running = self._require("commit")
        try:
            events = await self._write(running, stage=then is None)
        except BaseException as error:
            await self.roll_back(error)
            raise
        done = await finish(self._commit(running.id), self._commit_timeout)
        failure, cancellation = await self._settle_commit(running, response, done), done.cancellation
        if failure is not None and not isinstance(failure, CommittedError):
            if cancellation is not None:
                raise cancellation from failure
            raise failure
        if running.after_commit or failpoints.armed or (then is not None and events):
            deliver = then(events) if then is not None and events else None
            follow = self._follow(running, response, deliver, after_commit_timeout)
            after = await finish(follow, math.inf)
            failure = _joined(running, response, failure, after.failure)
            cancellation = after.cancellation or cancellation
        if cancellation is not None:
            raise cancellation from failure or CommittedError(running.id, response, message=running.dispatch.message)
        if failure is not None:
            raise failure

    async def _follow(
        self,
        running: RunningTransaction,
        response: Any,
        deliver: Coroutine[Any, Any, None] | None,
        timeout: float,  # noqa: ASYNC109  # the bound is part of the promise
    ) -> None:
        """Deliver the events and make the calls that were added with `after_commit`, even if a call fails."""
        errors: list[BaseException] = []
        try:
            await failpoints.reach("unit_of_work.after_commit")
        except Exception as error:  # collected: the calls are still made
            errors.append(error)
        message = running.dispatch.message
        await running.after_commit.run(running.id, message, response, deliver, timeout=timeout, errors=errors)

    async def roll_back(self, error: BaseException) -> None:
        """Roll back all work since `begin`, in bounded time. A cancellation does not interrupt the rollback.

        Raises:
            asyncio.CancelledError: The caller was cancelled during the rollback.
            RolledBackError: `error` reports that another transaction committed or may have committed, but this
                transaction was rolled back.
        """
        running = self._require("rollback")
        await self._undo(running, "transaction rolled back", error=type(error).__name__)
        if isinstance(error, CommittedError | CommitOutcomeUnknownError):  # the error is about another transaction
            raise RolledBackError(running.id, running.message, error) from error

    async def abandon(self) -> None:
        """Roll back a transaction that is still open at the end of its scope.

        Raises:
            NoUnitOfWorkError: Changes were not written, or events were not published.
            asyncio.CancelledError: The caller was cancelled during the rollback.
        """
        if self._running is None:
            return
        left = [*self.unstored, *self._running.recorded.names]
        await self._undo(self._running, "transaction left open at the end of its scope, and rolled back")
        if left:
            raise lack_of_storing(left)

    async def _undo(self, running: RunningTransaction, event: str, **fields: Any) -> None:
        done = await finish(self._roll_back(), self._commit_timeout)
        self._end(running, Outcome.ROLLED_BACK, None)
        late = not done.task.done()
        result = "late" if late else shown_error(done.failure) if done.failure else "done"
        self._log.warning(event, rollback=result, **fields, **running.log_fields())
        if done.cancellation is not None:
            raise done.cancellation

    async def _write(self, running: RunningTransaction, *, stage: bool) -> Sequence[CloudEvent]:
        await running.publish_recorded(self.flush)
        for other in self._others(running.scope):
            other.check_stored()
        staged = running.encode_events(
            self.codec, self._max_event_bytes, stage=stage, source=(self.application or "") if stage else ""
        )
        await failpoints.reach("unit_of_work.before_stage")
        if staged and stage:
            await self.stage(staged)
        await failpoints.reach("unit_of_work.before_commit")
        return [each.event for each in staged]

    def _others(self, scope: Scope) -> "Sequence[UnitOfWork]":
        """Return the other units of work that were registered in the scope."""
        units = scope.kept(_UNITS, ())
        return [each for each in units if each is not self]

    async def _commit(self, transaction_id: str) -> None:
        self.settling = True
        try:
            await failpoints.reach("unit_of_work.during_commit")
            await self.commit_transaction(transaction_id)
            try:
                await failpoints.reach("unit_of_work.after_answer")
            except Exception as error:
                raise CommittedError(transaction_id, None) from error
        finally:
            self.settling = False

    async def _roll_back(self) -> None:
        self.settling = True
        try:
            await self.roll_back_transaction()
        finally:
            self.settling = False

    async def _settle_commit(
        self, running: RunningTransaction, response: Any, done: Shielded[None]
    ) -> BaseException | None:
        if not done.task.done():
            reason = f"the database did not answer within {self._commit_timeout:g} s"
            return self._unknown(running, CommitOutcomeUnknownError(running.id, reason))
        failure = done.failure
        if isinstance(failure, asyncio.CancelledError):
            failure = CommitOutcomeUnknownError(running.id, "the event loop ended before the database answered")
        if failure is None or isinstance(failure, CommittedError):
            if failure is not None:
                cause = failure.__cause__ or failure
                failure = CommittedError(running.id, response, message=running.dispatch.message)
                failure.__cause__ = cause
            self._end(running, Outcome.COMMITTED, response)
            self._log.info("transaction committed", **running.log_fields())
        elif isinstance(failure, CommitOutcomeUnknownError):
            await finish(self._roll_back(), self._commit_timeout)
            self._unknown(running, failure)
        else:
            await self.roll_back(failure)
        return failure

    def _unknown(self, running: RunningTransaction, error: CommitOutcomeUnknownError) -> CommitOutcomeUnknownError:
        self._end(running, Outcome.UNKNOWN, None)
        self._log.error("transaction outcome unknown", reason=error.reason, **running.log_fields())
        return error

    def _end(self, running: RunningTransaction, outcome: Outcome, response: Any) -> None:
        running.scope.open_to_others(running.frame)
        for aggregate in running.tracked:
            self.release(aggregate)
        running.scope.end(outcome, running.id, response)
        running.dispatch.settle(outcome, running.id, response)
        self._running = None

    def _require(self, subject: object) -> RunningTransaction:
        if self._running is None:
            raise lack_of_unit_of_work(subject)
        return self._running

    # Rollback-only state and savepoints, as in `mediator.transactions.Transaction`.

    def doom(self, message: object, error: BaseException, /) -> None:
        """Allow only a rollback to the innermost savepoint or `begin` from now on. The first call gives the reason."""
        if self._running is not None:
            self._running.doomed(message, error)

    def after_commit(self, message: object, call: Callable[[], Awaitable[Any]], /) -> None:
        """Make a call after the commit. A rollback of the transaction, or to an earlier savepoint, drops the call."""
        self._require(message).after_commit.add(message, call)

    @asynccontextmanager
    async def savepoint(self, message: object, /) -> AsyncGenerator[None, None]:
        """Set a savepoint and run the body. If the body fails, only its own work and events are rolled back.

        Raises:
            RolledBackError: A dispatch that joined the transaction failed, and its caller caught the error.
        """
        running = self._require(message)
        handle = await self.set_savepoint()
        running.enter_savepoint()
        try:
            yield
            running.raise_doom()
            await self.release_savepoint(handle)
        except BaseException as error:
            running.leave_savepoint(keep=False)
            done = await finish(self.roll_back_to_savepoint(handle), self._commit_timeout)
            if not done.task.done() or done.failure is not None:
                self.doom(message, error)
            if done.cancellation is not None:
                raise done.cancellation from error
            raise
        running.leave_savepoint(keep=True)


def _joined(
    running: RunningTransaction, response: Any, first: BaseException | None, second: BaseException | None
) -> BaseException | None:
    """Combine an error of the commit with an error of the calls after the commit. Either may be `None`."""
    if first is None or second is None or not isinstance(second, Exception):
        return second or first
    notifications = second.notifications if isinstance(second, AfterCommitError) else ()
    joined = AfterCommitError(running.id, response, notifications, (first, second), message=running.dispatch.message)
    joined.__cause__ = first
    return joined


def current_unit_of_work() -> UnitOfWork:
    """Return the unit of work that runs in the current scope.

    Raises:
        ScopeError: Nothing is being dispatched.
        NoUnitOfWorkError: No transaction runs.
    """
    transaction = current_scope("a unit of work").transaction
    if not isinstance(transaction, UnitOfWork):
        raise lack_of_unit_of_work("current_unit_of_work()")
    return transaction
