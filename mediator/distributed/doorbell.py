"""Doorbell: the port through which a process that committed events wakes the relays of other processes."""

from abc import ABC, abstractmethod
from collections.abc import Callable


class Doorbell(ABC):
    """Saves events of other processes the wait for the next poll. A ring may get lost: relays look by themselves, too."""

    @abstractmethod
    def ring(self) -> None:
        """Tell other processes that events were committed. Never blocks; rings in quick succession may become one."""

    @abstractmethod
    def on_ring(self, listener: Callable[[], None], /) -> None:
        """Call `listener` when another process has rung, and whenever a ring may have been missed."""
