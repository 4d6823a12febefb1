"""ReadOnlyTransaction: the transaction of a query, in which nothing can be written."""

from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from typing import Any, NoReturn

from mediator.blocks import asynccontextmanager
from mediator.errors import NoUnitOfWorkError, misuse
from mediator.errors.root import name_of
from mediator.scope import current_frame
from mediator.transactions import Transaction


class ReadOnlyTransaction(Transaction):
    """The read-only transaction of a query. Messages that join the transaction can only read.

    Attributes:
        query: The query for which the transaction was begun.
    """

    def __init__(self, query: object) -> None:
        self.query: object = query

    def doom(self, message: object, error: BaseException, /) -> None:
        """Do nothing, because there are no writes to roll back."""

    @asynccontextmanager
    async def savepoint(self, _message: object, /) -> AsyncGenerator[None, None]:
        """Run the body without a savepoint, because there are no writes to roll back."""
        yield

    def after_commit(self, message: object, _call: Callable[[], Awaitable[Any]], /) -> NoReturn:
        """Refuse to make a call after the commit, because a read-only transaction has no commit.

        Raises:
            NoUnitOfWorkError: Always.
        """
        raise misuse.read_only(message, self.query)

    async def abandon(self) -> None:
        """Do nothing, because `ReadOnlyTransactionBehavior` ends the transaction."""


def refuse_in_read_only(subject: object) -> None:
    """When a read-only transaction runs, refuse an operation that needs a unit of work.

    Raises:
        NoUnitOfWorkError: A read-only transaction runs.
    """
    frame = current_frame()
    transaction = frame.scope.transaction if frame is not None else None
    if isinstance(transaction, ReadOnlyTransaction):
        raise misuse.read_only(subject, transaction.query)


def lack_of_unit_of_work(subject: object) -> NoUnitOfWorkError:
    """Return the error for a message or an operation that needs a running unit of work.

    The error names the query of a running read-only transaction, or the running transaction of another database.
    """
    try:
        refuse_in_read_only(subject)
    except NoUnitOfWorkError as error:
        return error
    frame = current_frame()
    transaction = frame.scope.transaction if frame is not None else None
    return misuse.no_unit_of_work(subject, running="" if transaction is None else described(transaction))


def described(transaction: Transaction) -> str:
    """Describe a running transaction for errors: its class and, if they are known, its database and its id."""
    text: str = getattr(transaction, "described", name_of(transaction))
    return text


def lack_of_storing(left: Sequence[str]) -> NoUnitOfWorkError:
    """Return the error for changes or recorded events that were not stored, because no unit of work was running."""
    return lack_of_unit_of_work(f"Storing {', '.join(left)}")
