"""UnitOfWork: one database transaction at a time, with the events that leave the process only if it commits."""

import asyncio
import math
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine, Sequence
from contextlib import asynccontextmanager
from types import TracebackType
from typing import Any, Self

import structlog

from mediator.context import IdFactory, new_id
from mediator.distributed import failpoints
from mediator.distributed.aggregate_tracker import AggregateTracker
from mediator.distributed.bounds import check_counts, check_positive, check_texts
from mediator.distributed.cloudevents import CloudEvent
from mediator.distributed.database import DatabaseTransaction
from mediator.distributed.events import DistributedEvent
from mediator.distributed.reading import lack_of_unit_of_work, refuse_in_read_only
from mediator.distributed.serialization import LONGEST_MEDIA_TYPE, EventCodec
from mediator.distributed.shield import Shielded, finish
from mediator.distributed.transaction import CollectedEvent, RunningTransaction, UnitOfWorkState
from mediator.errors import (
    CommitOutcomeUnknownError,
    NoScopeError,
    NoUnitOfWorkError,
    UnitOfWorkRunningError,
)
from mediator.errors.root import name_of
from mediator.scope import current_frame, current_scope
from mediator.transactions import Outcome

AfterCommit = Callable[[Sequence[CloudEvent]], Coroutine[Any, Any, None]]


class UnitOfWork(DatabaseTransaction, AggregateTracker):
    """The port of a database transaction; one object a scope, which may run several transactions in turn.

    `DistributedUnitOfWorkBehavior` runs it around a command. A script does so by hand, on the same commit path:
    `async with mediator.scope(): async with unit_of_work: ...`.

    Args:
        codec: Writes and reads the payloads of events.
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
        self._log: structlog.stdlib.BoundLogger = structlog.get_logger("mediator")

    # What users see.

    @property
    def state(self) -> UnitOfWorkState:
        """Whether a transaction runs, and whether it may still commit."""
        if self._running is None:
            return UnitOfWorkState.IDLE
        return UnitOfWorkState.ROLLBACK_ONLY if self._running.doom else UnitOfWorkState.ACTIVE

    @property
    def transaction_id(self) -> str:
        """The id of the running transaction, as it stands in the logs.

        Raises:
            NoUnitOfWorkError: None runs.
        """
        return self._require("transaction_id").id

    @property
    def pending_events(self) -> Sequence[DistributedEvent]:
        """The events collected so far; empty when no transaction runs."""
        return tuple(collected.event for collected in self._running.events) if self._running else ()

    def collect(self, collected: CollectedEvent) -> None:
        """Keep an event for the commit.

        Raises:
            NoUnitOfWorkError: No transaction runs, or its events are being stored already.
        """
        running = self._require(collected.event)
        if running.sealed:
            raise NoUnitOfWorkError(collected.event)
        running.events.append(collected)

    async def __aenter__(self) -> Self:
        """Begin a transaction by hand, named after the message or the scope it is begun in."""
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

    async def begin(self, message: object, *, isolation: str | None = None) -> None:
        """Begin a transaction; the database hears of it at the first statement.

        Raises:
            UnitOfWorkRunningError: One runs in this scope already.
            ReadOnlyTransactionError: A query is being answered in this scope.
            NoScopeError: Nothing is being dispatched.
        """
        scope, frame = current_scope("a unit of work"), current_frame()
        if frame is None:
            raise NoScopeError("a unit of work")
        refuse_in_read_only(message)
        if scope.transaction is not None or self._running is not None:
            raise UnitOfWorkRunningError(self._running.id if self._running else "of another database")
        await self.prepare(isolation)
        self._running = RunningTransaction(self._ids(), message, scope, frame, self._max_domain_events)
        self.take_over(self._running)
        scope.transaction = self
        scope.outcome, scope.response = Outcome.NONE, None
        flow = frame.context.log_fields()
        self._log.debug("transaction begun", transaction_id=self._running.id, message=name_of(message), **flow)

    async def commit(
        self, response: Any = None, *, then: AfterCommit | None = None, after_commit_timeout: float = 30.0
    ) -> None:
        """Write what is pending, publish domain events, store distributed ones in the outbox, and commit.

        From COMMIT on nothing tears this apart: a cancellation is raised again when all is done.

        Args:
            response: What the command returned; kept in the scope beside the outcome.
            then: Takes the events instead of the outbox, right after the commit. It bounds itself in time; what it
                raises reaches the caller.
            after_commit_timeout: How long the calls may take that waited for the commit, in seconds.

        Raises:
            AfterCommitError: Committed, but such a call failed.
            UnitOfWorkRolledBackError: Something failed before, although its caller went on.
            CommitOutcomeUnknownError: The answer to COMMIT was lost or late.
            DomainEventDepthError: Domain events cause each other in a circle.
            TooManyDomainEventsError: They do, several each; or the command records more than `max_domain_events`.
            EventError: An event cannot be stored. As after any other error up to COMMIT, all is rolled back.
        """
        running = self._require("commit")
        try:
            events = await self._write(running, stage=then is None)
        except BaseException as error:
            await self.roll_back(error)
            raise
        done = await finish(self._commit(running.id), self._commit_timeout)
        failure, cancellation = await self._settle_commit(running, response, done), done.cancellation
        if failure is None:
            await failpoints.reach("unit_of_work.after_commit")
        deliver = then(events) if failure is None and then is not None and events else None
        if deliver is not None or (failure is None and running.after_commit):
            calls = running.after_commit.run(running.id, response, deliver, after_commit_timeout)
            after = await finish(calls, math.inf)
            failure, cancellation = after.failure, after.cancellation or cancellation
        if cancellation is not None:
            raise cancellation from failure
        if failure is not None:
            raise failure

    async def roll_back(self, error: BaseException) -> None:
        """Undo everything since `begin`. Bounded, and shielded from cancellation.

        Raises:
            asyncio.CancelledError: The caller was cancelled meanwhile.
        """
        running = self._require("rollback")
        done = await finish(self._roll_back(), self._commit_timeout)
        self._end(running, Outcome.ROLLED_BACK)
        late = not done.task.done()
        self._log.warning(
            "transaction rolled back",
            error=type(error).__name__,
            rollback="late" if late else repr(done.failure) if done.failure else "done",
            **running.log_fields(),
        )
        if done.cancellation is not None:
            raise done.cancellation

    async def _write(self, running: RunningTransaction, *, stage: bool) -> Sequence[CloudEvent]:
        await running.come_to_rest(self.flush)
        staged = running.encode_events(self.codec, self._max_event_bytes, stage=stage)
        await failpoints.reach("unit_of_work.before_stage")
        if staged and stage:
            await self.stage(staged)
        await failpoints.reach("unit_of_work.before_commit")
        return [each.event for each in staged]

    async def _commit(self, transaction_id: str) -> None:
        self.settling = True
        try:
            await failpoints.reach("unit_of_work.during_commit")
            await self.commit_transaction(transaction_id)
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
        if failure is None:
            self._end(running, Outcome.COMMITTED)
            running.scope.response = response
            self._log.info("transaction committed", **running.log_fields())
        elif isinstance(failure, CommitOutcomeUnknownError):
            await finish(self._roll_back(), self._commit_timeout)
            self._unknown(running, failure)
        else:
            await self.roll_back(failure)
        return failure

    def _unknown(self, running: RunningTransaction, error: CommitOutcomeUnknownError) -> CommitOutcomeUnknownError:
        self._end(running, Outcome.UNKNOWN)
        self._log.error("transaction outcome unknown", reason=error.reason, **running.log_fields())
        return error

    def _end(self, running: RunningTransaction, outcome: Outcome) -> None:
        running.open_to_others()
        self.let_go(running)
        running.scope.transaction = None
        running.scope.outcome = outcome
        running.scope.settled_id = running.scope.settled_id if outcome is Outcome.ROLLED_BACK else running.id
        self._running = None

    def _require(self, subject: object) -> RunningTransaction:
        if self._running is None:
            raise lack_of_unit_of_work(subject)
        return self._running

    # Dooming and savepoints: `mediator.scope.Transaction`.

    def doom(self, message: object, error: BaseException, /) -> None:
        """Allow only a rollback (to the innermost savepoint) from now on; the first reason is kept."""
        if self._running is not None:
            self._running.doomed(message, error)

    def after_commit(self, message: object, call: Callable[[], Awaitable[Any]], /) -> None:
        """Make a call after the commit; none if what was done since the innermost savepoint is rolled back."""
        self._require(message).after_commit.add(message, call)

    @asynccontextmanager
    async def savepoint(self, message: object, /) -> AsyncGenerator[None, None]:
        """Undo to this point, events included, when the body fails; nothing further out is doomed by it.

        Raises:
            UnitOfWorkRolledBackError: Something inside failed although its caller went on.
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
