"""Transactions: their modes, their outcomes, and the interface through which a scope uses a transaction."""

import enum
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Any, Protocol

from mediator.errors import SettingError


class TransactionMode(enum.Enum):
    """How a dispatch relates to the dispatch that is running."""

    DEFAULT = "default"
    """Join the running scope and its transaction. If no scope is running, begin a new scope and a new transaction."""
    NEW = "new"
    """Begin a new scope and a new transaction, which do not depend on the outcome of the running transaction."""
    NESTED = "nested"
    """Join the running scope and set a savepoint in its transaction. A failure undoes only the work since the savepoint."""
    SUPPRESS = "suppress"
    """Begin a new scope without a transaction. Dispatches that join the scope begin no transaction either."""


def check_mode(mode: object) -> TransactionMode:
    """Return the mode. Raise a `SettingError` for a value that is no mode, such as the text "nested"."""
    if not isinstance(mode, TransactionMode):
        raise SettingError("mode", mode, "it is no TransactionMode. Write `mode=TransactionMode.NESTED`, for example.")
    return mode


class Outcome(enum.Enum):
    """The outcome of the last transaction of a scope."""

    NONE = "none"
    ROLLED_BACK = "rolled back"
    COMMITTED = "committed"
    UNKNOWN = "unknown"


@dataclass(slots=True, eq=False)
class TransactionEnd:
    """The end of a transaction that a dispatch began.

    Attributes:
        transaction_id: The id of the transaction, as shown in the logs.
        message: The message for which the transaction was begun.
        response: The response that the dispatch would return, if it is known yet.
        failure: The error of the transaction, until the dispatch has raised it to its sender.
    """

    outcome: Outcome
    transaction_id: str
    message: object
    response: Any = None
    failure: BaseException | None = None


class Transaction(Protocol):
    """The interface through which a scope uses the transaction that runs in it."""

    def doom(self, message: object, error: BaseException, /) -> None:
        """From now on allow only a rollback to the innermost savepoint, or a full rollback if there is no savepoint."""
        ...

    def savepoint(self, message: object, /) -> AbstractAsyncContextManager[None]:
        """Set a savepoint, and roll back to it if the body fails."""
        ...

    def after_commit(self, message: object, call: Callable[[], Awaitable[Any]], /) -> None:
        """Call `call` after the commit. A rollback of the transaction, or to an earlier savepoint, drops the call."""
        ...

    async def abandon(self) -> None:
        """End a transaction that is still open at the end of its scope."""
        ...
