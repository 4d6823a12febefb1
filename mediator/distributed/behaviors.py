"""Behaviors that run commands and notifications in a transaction, and queries in a read-only transaction."""

import asyncio
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, ClassVar, Literal, TypeVar, overload

from mediator.aggregates import RecordedEvent
from mediator.distributed import failpoints
from mediator.distributed.cloudevents import CloudEvent
from mediator.distributed.outbox import EventPublisher, Outbox
from mediator.distributed.shield import is_own_cancellation
from mediator.distributed.unit_of_work import (
    DistributedEventBroker,
    ReadOnlyTransaction,
    UnitOfWork,
    lack_of_storing,
    refuse_in_read_only,
)
from mediator.errors import ContainerError, EventsNotPublishedError, misuse
from mediator.messages import Command, Notification, Query
from mediator.pipeline import CallNext, PipelineBehavior
from mediator.scope import Frame, current_scope
from mediator.settings import check_positive
from mediator.watching import check_awaited

DeliveryMode = Literal["outbox", "direct"]
Message = TypeVar("Message", bound=Command[Any] | Notification)


class DistributedUnitOfWorkBehavior(PipelineBehavior[Message, Any]):
    """Runs every outermost command or notification in a transaction, and sends the events after the commit.

    Commands and notifications that are dispatched inside a running transaction join that transaction.

    Without a type argument the behavior applies to commands and notifications. With several databases, derive one class
    for each database: `class BillingTransaction(DistributedUnitOfWorkBehavior[BillingCommand])`. If several classes
    fit a message, only the most specific class applies.

    Args:
        unit_of_work: The unit of work of this scope.
        distributed_events: The event broker of the same unit of work.
        outbox: Stores the events for the relay; needed with `delivery="outbox"`.
        publisher: Publishes the events right after the commit; needed with `delivery="direct"`.
        delivery: `"outbox"` cannot lose an event. `"direct"` needs no relay, but loses events if the process dies
            or the broker is unavailable right after the commit.
        isolation: The isolation level of the transaction; `None` for the database's default.
        after_commit_timeout: The longest time that direct delivery may take, in seconds. The `after_commit` calls run
            after the delivery. All of them together may take this time once more.
    """

    one_of: ClassVar[str | None] = "unit of work"
    per_scope: ClassVar[bool] = True
    commits: ClassVar[bool] = True

    @overload  # for the class itself, without a type argument
    def __init__(
        self: "DistributedUnitOfWorkBehavior[Command[Any] | Notification]",
        unit_of_work: UnitOfWork,
        distributed_events: DistributedEventBroker,
        outbox: Outbox | None = ...,
        *,
        publisher: EventPublisher | None = ...,
        delivery: DeliveryMode = ...,
        isolation: str | None = ...,
        after_commit_timeout: float = ...,
    ) -> None: ...

    @overload
    def __init__(  # pyright: ignore[reportOverlappingOverload]  # for subclasses that narrow the message
        self,
        unit_of_work: UnitOfWork,
        distributed_events: DistributedEventBroker,
        outbox: Outbox | None = ...,
        *,
        publisher: EventPublisher | None = ...,
        delivery: DeliveryMode = ...,
        isolation: str | None = ...,
        after_commit_timeout: float = ...,
    ) -> None: ...

    def __init__(
        self,
        unit_of_work: UnitOfWork,
        distributed_events: DistributedEventBroker,
        outbox: Outbox | None = None,
        *,
        publisher: EventPublisher | None = None,
        delivery: DeliveryMode = "outbox",
        isolation: str | None = None,
        after_commit_timeout: float = 30.0,
    ) -> None:
        if distributed_events.unit_of_work is not unit_of_work:
            raise misuse.other_unit_of_work(distributed_events, unit_of_work)
        if (outbox if delivery == "outbox" else publisher) is None:
            missing = "an outbox" if delivery == "outbox" else "a publisher"
            raise ContainerError(self, f"{type(self).__name__} with delivery={delivery!r} needs {missing}.")
        check_positive(after_commit_timeout=after_commit_timeout)
        self._unit_of_work = unit_of_work
        self._publisher = publisher if delivery == "direct" else None
        self._isolation = isolation
        self._after_commit_timeout = after_commit_timeout

    async def handle(self, message: Message, call_next: CallNext[Any], /) -> Any:
        """Run the rest of the pipeline in a new transaction and commit, or join the running transaction.

        The events of a new transaction are stored in the outbox before the commit, or delivered after the commit.

        Raises:
            NoUnitOfWorkError: The message is a command that would join the transaction of a query.
            RolledBackError: A dispatch in this transaction failed, and the caller of that dispatch caught the error.
            CommitOutcomeUnknownError: The database's answer to COMMIT was lost.
            EventsNotPublishedError: The transaction committed, but direct delivery failed. The error carries the
                response.
            AfterCommitError: The transaction committed, but a notification or another call after the commit failed. The
                error carries the response.
        """
        scope = current_scope("a unit of work")
        if scope.transaction is not None or not scope.transactional:
            if isinstance(message, Command):
                refuse_in_read_only(message)
            return await call_next()
        unit_of_work = self._unit_of_work
        await unit_of_work.begin(message, isolation=self._isolation)
        transaction_id, dispatch = unit_of_work.transaction_id, unit_of_work.dispatch
        try:
            try:
                response = await call_next()
                check_awaited(response, message)
            except BaseException as error:
                await unit_of_work.roll_back(error)
                raise
            publisher = self._publisher
            then = None if publisher is None else partial(self._publish, publisher, dispatch, transaction_id, response)
            await unit_of_work.commit(response, then=then, after_commit_timeout=self._after_commit_timeout)
            await failpoints.reach("unit_of_work.before_return")
        except BaseException as error:
            dispatch.failed(error)
            raise
        return response

    async def _publish(
        self,
        publisher: EventPublisher,
        dispatch: Frame,
        transaction_id: str,
        response: Any,
        events: Sequence[CloudEvent],
    ) -> None:
        if publisher.application is not None:
            events = [replace(event, source=publisher.application) for event in events]
        try:
            async with asyncio.timeout(self._after_commit_timeout):
                await failpoints.reach("unit_of_work.before_delivery")
                results = await publisher.publish(events)
        except (Exception, asyncio.CancelledError) as error:  # the caller learns that the command committed
            if is_own_cancellation(error):
                raise
            failure = EventsNotPublishedError(transaction_id, response, events, (error,), message=dispatch.message)
            raise failure from error
        failed = [(result.event, result.error) for result in results if result.error is not None]
        if failed:
            unpublished, errors = [event for event, _ in failed], [error for _, error in failed]
            raise EventsNotPublishedError(transaction_id, response, unpublished, errors, message=dispatch.message)
        await failpoints.reach("unit_of_work.after_delivery")


Q = TypeVar("Q", bound=Query[Any])


class ReadOnlyTransactionBehavior(PipelineBehavior[Q, Any]):
    """Runs every outermost query in a read-only transaction. A query inside a transaction joins that transaction.

    All statements of the query, and of the messages that it sends, see the same state of the database. The database
    refuses to write. A command that would join the transaction is refused. A command with `TransactionMode.NEW` runs in
    its own transaction.

    Without a type argument the behavior applies to queries. With several databases, derive one class for each database:
    `class BillingReading(ReadOnlyTransactionBehavior[BillingQuery])`. If several classes fit, the most specific wins.

    Args:
        unit_of_work: The unit of work of this scope.
        isolation: The isolation level; `None` for a level at which all statements see the same state. That level is
            REPEATABLE READ on PostgreSQL; SQLite has only one level.
    """

    one_of: ClassVar[str | None] = "unit of work"
    belongs_inside: ClassVar[Mapping[str, str]] = {
        "caching": "a cache is not used inside a transaction, and a cached response needs no transaction"
    }

    @overload  # for the class itself, without a type argument
    def __init__(
        self: "ReadOnlyTransactionBehavior[Query[Any]]", unit_of_work: UnitOfWork, *, isolation: str | None = ...
    ) -> None: ...

    @overload
    def __init__(  # pyright: ignore[reportOverlappingOverload]  # for subclasses that narrow the query
        self, unit_of_work: UnitOfWork, *, isolation: str | None = ...
    ) -> None: ...

    def __init__(self, unit_of_work: UnitOfWork, *, isolation: str | None = None) -> None:
        self._unit_of_work = unit_of_work
        self._isolation = isolation

    async def handle(self, query: Q, call_next: CallNext[Any], /) -> Any:
        """Run the rest of the pipeline in a read-only transaction; or join the running transaction.

        Raises:
            NoUnitOfWorkError: The query did something that needs a unit of work, such as a write.
            MisuseError: The database does not support the isolation level.
        """
        scope = current_scope("a read-only transaction")
        if scope.transaction is not None or not scope.transactional:
            return await call_next()
        await self._unit_of_work.begin_reading(self._isolation)
        recorded_before = self._unit_of_work.recorded_since(())
        with scope.reading(ReadOnlyTransaction(query)):
            failure: BaseException | None = None
            try:
                response = await call_next()
                check_awaited(response, query)
                self._check_recorded(recorded_before)
            except BaseException as error:
                failure = error
                self._unit_of_work.forget_recorded(self._unit_of_work.recorded_since(recorded_before))
                raise
            finally:
                await self._unit_of_work.end_reading(failure)
        return response

    def _check_recorded(self, before: Collection[RecordedEvent]) -> None:
        """Raise a `NoUnitOfWorkError` if the query recorded domain events, because nothing would publish them."""
        if self._unit_of_work.recorded_since(before):
            raise lack_of_storing(self._unit_of_work.unstored)
