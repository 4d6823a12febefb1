"""Room: how many deliveries of several partitions may be here at a time."""

from collections import deque
from collections.abc import Callable


class Room:
    """Places for deliveries, given out in the order in which they were asked for.

    Args:
        places: How many there are.
    """

    def __init__(self, places: int) -> None:
        self._free = places
        self._line: deque[Callable[[], None]] = deque()

    def take(self) -> bool:
        """Take a place at once; false when there is none."""
        if self._free == 0:
            return False
        self._free -= 1
        return True

    def ask(self, granted: Callable[[], None]) -> None:
        """Stand in line for a place; `granted` is called as soon as it is taken, possibly at once."""
        if self.take():
            granted()
        else:
            self._line.append(granted)

    def give_back(self) -> None:
        """Give a place to the first in line, or back."""
        if self._line:
            self._line.popleft()()
        else:
            self._free += 1
