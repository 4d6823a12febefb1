"""DistributedUnitOfWorkBehavior: runs a command and all that joins it in one transaction, and then sends its events."""

import asyncio
from collections.abc import Sequence
from functools import partial
from typing import Any, ClassVar, Literal, TypeVar, overload

from mediator.distributed.broker import DistributedEventBroker
from mediator.distributed.cloudevents import CloudEvent
from mediator.distributed.outbox import Outbox
from mediator.distributed.publisher import EventPublisher
from mediator.distributed.reading import refuse_in_read_only
from mediator.distributed.unit_of_work import UnitOfWork
from mediator.errors import ContainerError, EventsNotPublishedError, UnitOfWorkMismatchError
from mediator.messages import Command, Notification
from mediator.pipeline import CallNext, PipelineBehavior
from mediator.scope import current_scope
from mediator.watching import check_awaited

Delivery = Literal["outbox", "direct"]
Message = TypeVar("Message", bound=Command[Any] | Notification)


class DistributedUnitOfWorkBehavior(PipelineBehavior[Message, Any]):
    """The transaction of every outermost command and publish; what is dispatched inside joins it.

    Without a type argument it applies to commands and notifications. With several databases, derive one class each:
    `class BillingTransaction(DistributedUnitOfWorkBehavior[BillingCommand])`; the most specific one is taken.

    Args:
        unit_of_work: The one of this scope.
        distributed_events: The broker of the same unit of work.
        outbox: Where the events wait for the relay (`delivery="outbox"`).
        publisher: Where the events go right after the commit (`delivery="direct"`).
        delivery: `"outbox"` cannot lose an event. `"direct"` needs no relay, but loses what a crash or an outage of the
            broker catches between the commit and the broker's acknowledgement.
        isolation: The isolation level of the transaction; `None` for the database's default.
        after_commit_timeout: How long direct delivery may take, and what is published after the commit, in seconds each.
    """

    one_of: ClassVar[str | None] = "unit of work"
    per_scope: ClassVar[bool] = True

    @overload  # for the class as it is: type checkers need not be told what it applies to
    def __init__(
        self: "DistributedUnitOfWorkBehavior[Command[Any] | Notification]",
        unit_of_work: UnitOfWork,
        distributed_events: DistributedEventBroker,
        outbox: Outbox | None = ...,
        *,
        publisher: EventPublisher | None = ...,
        delivery: Delivery = ...,
        isolation: str | None = ...,
        after_commit_timeout: float = ...,
    ) -> None: ...

    @overload
    def __init__(  # pyright: ignore[reportOverlappingOverload]  # classes that narrow the message use it
        self,
        unit_of_work: UnitOfWork,
        distributed_events: DistributedEventBroker,
        outbox: Outbox | None = ...,
        *,
        publisher: EventPublisher | None = ...,
        delivery: Delivery = ...,
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
        delivery: Delivery = "outbox",
        isolation: str | None = None,
        after_commit_timeout: float = 30.0,
    ) -> None:
        if distributed_events.unit_of_work is not unit_of_work:
            raise UnitOfWorkMismatchError(distributed_events, unit_of_work)
        if (outbox if delivery == "outbox" else publisher) is None:
            missing = "an outbox" if delivery == "outbox" else "a publisher"
            raise ContainerError(self, f"{type(self).__name__} with delivery={delivery!r} needs {missing}.")
        self._unit_of_work = unit_of_work
        self._publisher = publisher if delivery == "direct" else None
        self._isolation = isolation
        self._after_commit_timeout = after_commit_timeout

    async def handle(self, message: Message, call_next: CallNext[Any], /) -> Any:
        """Begin, go on, commit and deliver; or join what runs.

        Raises:
            ReadOnlyTransactionError: It is a command, and would join the transaction of a query.
            UnitOfWorkRolledBackError: Something inside failed although its caller went on.
            CommitOutcomeUnknownError: The database's answer to COMMIT was lost.
            EventsNotPublishedError: Committed, but direct delivery failed. It carries the response.
            AfterCommitError: Committed, but something that waited for the commit failed. It carries the response.
        """
        scope = current_scope("a unit of work")
        if scope.transaction is not None or not scope.transactional:
            if isinstance(message, Command):
                refuse_in_read_only(message)
            return await call_next()
        unit_of_work = self._unit_of_work
        await unit_of_work.begin(message, isolation=self._isolation)
        transaction_id = unit_of_work.transaction_id
        try:
            response = await call_next()
            check_awaited(response, message)
        except BaseException as error:
            await unit_of_work.roll_back(error)
            raise
        publisher = self._publisher
        then = None if publisher is None else partial(self._publish, publisher, transaction_id, response)
        await unit_of_work.commit(response, then=then, after_commit_timeout=self._after_commit_timeout)
        return response

    async def _publish(
        self, publisher: EventPublisher, transaction_id: str, response: Any, events: Sequence[CloudEvent]
    ) -> None:
        try:
            async with asyncio.timeout(self._after_commit_timeout):
                results = await publisher.publish(events)
        except Exception as error:  # settled: the caller learns that the command committed all the same
            raise EventsNotPublishedError(transaction_id, response, events, (error,)) from error
        failed = [(result.event, result.error) for result in results if result.error is not None]
        if failed:
            raise EventsNotPublishedError(
                transaction_id, response, [event for event, _ in failed], [error for _, error in failed]
            )
