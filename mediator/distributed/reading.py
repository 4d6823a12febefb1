"""ReadOnlyTransaction: what a scope has for a transaction while a query is answered, and how it refuses all but reading."""

from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any, NoReturn

from mediator.errors import NoUnitOfWorkError, ReadOnlyTransactionError
from mediator.scope import current_frame
from mediator.transactions import Transaction


class ReadOnlyTransaction(Transaction):
    """What the scope of a query has for a transaction: what joins it reads, too, and can do nothing else.

    Attributes:
        query: What it was begun for.
    """

    def __init__(self, query: object) -> None:
        self.query: object = query

    def doom(self, message: object, error: BaseException, /) -> None:
        """Nothing was written that would have to be rolled back."""

    @asynccontextmanager
    async def savepoint(self, _message: object, /) -> AsyncGenerator[None, None]:
        """Nothing is written that would have to be undone."""
        yield

    def after_commit(self, message: object, _call: Callable[[], Awaitable[Any]], /) -> NoReturn:
        """Refuse: there is no commit.

        Raises:
            ReadOnlyTransactionError: Always.
        """
        raise ReadOnlyTransactionError(message, self.query)


def refuse_in_read_only(subject: object) -> None:
    """Refuse what needs a unit of work, where a read-only transaction runs in its place.

    Raises:
        ReadOnlyTransactionError: One does.
    """
    frame = current_frame()
    transaction = frame.scope.transaction if frame is not None else None
    if isinstance(transaction, ReadOnlyTransaction):
        raise ReadOnlyTransactionError(subject, transaction.query)


def lack_of_unit_of_work(subject: object) -> NoUnitOfWorkError:
    """The error of what needs a unit of work where none runs; it names the query that is being answered, if so."""
    try:
        refuse_in_read_only(subject)
    except ReadOnlyTransactionError as error:
        return error
    return NoUnitOfWorkError(subject)
