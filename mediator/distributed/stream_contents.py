"""StreamContents: the port to what the streams of a broker really hold, by the ids of events."""

from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass
from datetime import datetime


@dataclass(frozen=True, slots=True)
class HeldStream:
    """A stream as the broker has it.

    Attributes:
        name: Its name.
        created_at: When it was created.
        last_sequence: The number of the newest message that it ever had.
        oldest_at: When its oldest message was stored; `None` for a stream without messages.
        max_age: How long messages stay, in seconds; `None` for ever.
        drops_oldest: Whether it makes room by dropping its oldest messages.
    """

    name: str
    created_at: datetime
    last_sequence: int
    oldest_at: datetime | None
    max_age: float | None
    drops_oldest: bool


class StreamContents(ABC):
    """Reads what one publisher's streams hold. Nothing is changed there, and no subscriber's progress."""

    @abstractmethod
    def stream(self, context: str, /) -> str:
        """The name of the stream of a context."""

    @abstractmethod
    async def state(self, context: str, /) -> HeldStream | None:
        """The stream of a context; `None` when there is none.

        Raises:
            PublisherUnavailableError: The broker did not answer, or refused to.
        """

    @abstractmethod
    def ids(self, context: str, /, *, since: datetime | None = None, after: int = 0) -> AsyncGenerator[Sequence[str]]:
        """The ids of this publisher's events in the stream of a context, as of now, in order, in parts.

        Args:
            context: The context; of a stream that does not exist nothing is read.
            since: Only what was stored then or later, as far as the broker can skip the rest.
            after: Only what has a higher sequence.

        Raises:
            PublisherUnavailableError: The broker stopped answering before everything was read.
        """
