"""Transaction: what a scope knows of the one that runs in it, how a dispatch stands to it, and how it ended."""

import enum
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from typing import Any, Protocol

from mediator.errors import SettingError


class TransactionMode(enum.Enum):
    """How a dispatch stands to the one that is running."""

    DEFAULT = "default"
    """Join the running scope and its transaction, or begin new ones."""
    NEW = "new"
    """A scope and a transaction of its own, whatever becomes of the running one."""
    NESTED = "nested"
    """Join, behind a savepoint: a failure undoes only what was done since and dooms nothing further out."""
    SUPPRESS = "suppress"
    """A scope of its own, without a transaction; what joins it has none either."""


def check_mode(mode: object) -> TransactionMode:
    """The mode, if it is one; a text such as "nested" would be none, in silence.

    Raises:
        SettingError: It is not.
    """
    if not isinstance(mode, TransactionMode):
        raise SettingError("mode", mode, "it is no TransactionMode. Write `mode=TransactionMode.NESTED`, for one.")
    return mode


class Outcome(enum.Enum):
    """What became of the last transaction of a scope."""

    NONE = "none"
    ROLLED_BACK = "rolled back"
    COMMITTED = "committed"
    UNKNOWN = "unknown"


class Transaction(Protocol):
    """What a scope needs to know of the transaction that runs in it."""

    def doom(self, message: object, error: BaseException, /) -> None:
        """Allow nothing but a rollback (to the innermost savepoint, if there is one) from now on."""
        ...

    def savepoint(self, message: object, /) -> AbstractAsyncContextManager[None]:
        """Set a savepoint, and roll back to it if the body fails."""
        ...

    def after_commit(self, message: object, call: Callable[[], Awaitable[Any]], /) -> None:
        """Make a call once the transaction has committed, and none if it (or the innermost savepoint) is rolled back."""
        ...
