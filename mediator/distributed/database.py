"""DatabaseTransaction: the half of a unit of work that an adapter for a database provides."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

from mediator.distributed.staging import StagedEvent


class DatabaseTransaction(ABC):
    """The port to a database. The methods are called in order, never two at a time; what they raise rolls back.

    Attributes:
        settling: A COMMIT or ROLLBACK is on its way and not answered; nothing else may use the connection.
    """

    settling: bool = False

    @abstractmethod
    async def prepare(self, isolation: str | None) -> None:
        """Get ready for a transaction, without I/O if possible; refuse an isolation level that cannot be given."""

    @abstractmethod
    async def begin_reading(self, isolation: str | None) -> None:
        """Let all that is read until `end_reading` be of one moment, or as an isolation level has it; refuse to write.

        Raises:
            IsolationNotSupportedError: The database cannot give that isolation level.
        """

    @abstractmethod
    async def end_reading(self, error: BaseException | None) -> None:
        """End it, bounded in time. What the session still holds cannot be written, and that is an error.

        Args:
            error: What the query failed with, if it did.

        Raises:
            ReadOnlyTransactionError: The session holds changes.
        """

    @abstractmethod
    async def flush(self) -> None:
        """Write what the session still holds."""

    @abstractmethod
    async def stage(self, events: Sequence[StagedEvent]) -> None:
        """Store events in the outbox, with one statement, the last one of the running transaction.

        They are numbered in the order given. Those with an `ordered_key` are numbered in the order of commits, too, among
        all events of that key.

        Raises:
            EventIdConflictError: One has the id of another, or of an event that is in the outbox.
            OutboxFullError: Too many events wait.
            TooManyEventsError: They are more than may ever wait.
        """

    @abstractmethod
    async def commit_transaction(self, transaction_id: str) -> None:
        """Commit and free everything held, or roll back and free it; then wake the relay when events were staged.

        May be answered so late that nobody waits any more (`settling` is true until then).

        Raises:
            CommitOutcomeUnknownError: The answer was lost.
        """

    @abstractmethod
    async def roll_back_transaction(self) -> None:
        """Roll back and free everything held; also after a failed or unknown commit. Never raises for a lost connection."""

    @abstractmethod
    async def set_savepoint(self) -> Any:
        """Set a savepoint and return what identifies it."""

    @abstractmethod
    async def release_savepoint(self, savepoint: Any) -> None:
        """Write what the session still holds and keep what was done since the savepoint."""

    @abstractmethod
    async def roll_back_to_savepoint(self, savepoint: Any) -> None:
        """Undo what was done since the savepoint."""
