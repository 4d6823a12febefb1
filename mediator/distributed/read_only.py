"""ReadOnlyTransactionBehavior: answers a query, and all that it sends, from the database as it is at one moment."""

from collections.abc import Mapping
from typing import Any, ClassVar, TypeVar, overload

from mediator.distributed.reading import ReadOnlyTransaction
from mediator.distributed.unit_of_work import UnitOfWork
from mediator.messages import Query
from mediator.pipeline import CallNext, PipelineBehavior
from mediator.scope import current_scope
from mediator.watching import check_awaited

Q = TypeVar("Q", bound=Query[Any])


class ReadOnlyTransactionBehavior(PipelineBehavior[Q, Any]):
    """The transaction of every outermost query. Inside a running transaction it joins that one and does nothing.

    All statements of the query, and of what it sends, see the same state of the database, and the database refuses to
    write. A command that would join is refused; with `TransactionMode.NEW` it has a transaction of its own.

    Without a type argument it applies to queries. With several databases, derive one class each:
    `class BillingReading(ReadOnlyTransactionBehavior[BillingQuery])`; the most specific one is taken.

    Args:
        unit_of_work: The one of this scope.
        isolation: The isolation level; `None` for one at which all statements see the same state: REPEATABLE READ on
            PostgreSQL, and what SQLite always gives.
    """

    one_of: ClassVar[str | None] = "unit of work"
    belongs_inside: ClassVar[Mapping[str, str]] = {
        "caching": "in a transaction a cache neither answers nor keeps anything, and what it answers needs none"
    }

    @overload  # for the class as it is: type checkers need not be told what it applies to
    def __init__(
        self: "ReadOnlyTransactionBehavior[Query[Any]]", unit_of_work: UnitOfWork, *, isolation: str | None = ...
    ) -> None: ...

    @overload
    def __init__(  # pyright: ignore[reportOverlappingOverload]  # classes that narrow the query use it
        self, unit_of_work: UnitOfWork, *, isolation: str | None = ...
    ) -> None: ...

    def __init__(self, unit_of_work: UnitOfWork, *, isolation: str | None = None) -> None:
        self._unit_of_work = unit_of_work
        self._isolation = isolation

    async def handle(self, query: Q, call_next: CallNext[Any], /) -> Any:
        """Begin, go on, end; or join what runs.

        Raises:
            ReadOnlyTransactionError: It would write, or do what needs a unit of work.
            IsolationNotSupportedError: The database cannot give that isolation level.
        """
        scope = current_scope("a read-only transaction")
        if scope.transaction is not None or not scope.transactional:
            return await call_next()
        await self._unit_of_work.begin_reading(self._isolation)
        scope.transaction = ReadOnlyTransaction(query)
        failure: BaseException | None = None
        try:
            response = await call_next()
            check_awaited(response, query)
        except BaseException as error:
            failure = error
            raise
        finally:
            try:
                await self._unit_of_work.end_reading(failure)
            finally:
                scope.transaction = None
        return response
