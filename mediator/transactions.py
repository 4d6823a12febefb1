"""Transactions: the interface a scope uses, how a dispatch relates to the running transaction, and its outcome."""

import enum
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Any, Protocol

from mediator.errors import SettingError


class TransactionMode(enum.Enum):
    """How a dispatch relates to the dispatch that is running."""

    DEFAULT = "default"
    """Join the running scope and its transaction, or begin new ones."""
    NEW = "new"
    """Begin a scope and a transaction of its own, which do not depend on the outcome of the running transaction."""
    NESTED = "nested"
    """Join behind a savepoint: a failure undoes only the work since then, and the outer transaction can go on."""
    SUPPRESS = "suppress"
    """Begin a scope of its own without a transaction; dispatches that join it have none either."""


def check_mode(mode: object) -> TransactionMode:
    """Return the mode, or raise a `SettingError`: a text such as "nested" would otherwise silently have no effect."""
    if not isinstance(mode, TransactionMode):
        raise SettingError("mode", mode, "it is no TransactionMode. Write `mode=TransactionMode.NESTED`, for one.")
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
        outcome: The outcome of the transaction.
        transaction_id: The id of the transaction, as in the logs.
        message: The message for which it was begun.
        response: The response that the dispatch would return, as far as it is known.
        failure: The error of the transaction, as long as the dispatch has not raised it to its sender.
    """

    outcome: Outcome
    transaction_id: str
    message: object
    response: Any = None
    failure: BaseException | None = None


class Transaction(Protocol):
    """The interface through which a scope uses the transaction that runs in it."""

    def doom(self, message: object, error: BaseException, /) -> None:
        """From now on, allow only a rollback, to the innermost savepoint if there is one."""
        ...

    def savepoint(self, message: object, /) -> AbstractAsyncContextManager[None]:
        """Set a savepoint, and roll back to it if the body fails."""
        ...

    def after_commit(self, message: object, call: Callable[[], Awaitable[Any]], /) -> None:
        """Make a call once the transaction has committed, but not if it or the innermost savepoint is rolled back."""
        ...

    async def abandon(self) -> None:
        """End a transaction that is still open at the end of its scope."""
        ...
