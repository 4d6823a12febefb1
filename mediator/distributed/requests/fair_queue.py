"""FairQueue: shares workers among several kinds of work, so that no kind alone takes every worker."""

import asyncio
import itertools
from collections import Counter, deque
from collections.abc import Callable, Collection, Iterator
from typing import Generic, TypeVar

T = TypeVar("T")

_KEPT_FREE = 8
"""An eighth of the places, but at least one place, is kept free: see `FairQueue`."""

_ENOUGH = 4
"""With fewer places, other work may borrow even a place that is kept free. Otherwise it would hardly ever begin."""


class FairQueue(Generic[T]):
    """Returns work in the order of its arrival, but lets no kind of work take all places.

    Each running piece of work takes one place. If there are several places, some of them are kept free for kinds of
    which no work is running. If all work of one kind hangs, work of another kind can still begin in a free place.

    Args:
        kinds: The kinds for which places are kept free; work of other kinds can be added too.
        places: The number of pieces of work that run at a time.
    """

    def __init__(self, kinds: Collection[str], places: int) -> None:
        self._places = places
        self._kinds = frozenset(kinds)
        self._waiting: dict[str, deque[tuple[int, T]]] = {kind: deque() for kind in kinds}
        self._running: Counter[str] = Counter()
        self._lent = 0
        self._borrowers = 0
        self._is_turn_of_borrowers = True
        self._moved: dict[str, float] = {}
        self._numbers = itertools.count()
        self._changed = asyncio.Event()

    def __len__(self) -> int:
        return sum(map(len, self._waiting.values()))

    def __iter__(self) -> Iterator[T]:
        """Iterate over all waiting work."""
        return (item for line in self._waiting.values() for _, item in line)

    def put(self, kind: str, item: T) -> None:
        """Add a piece of work of the given kind."""
        line = self._waiting.setdefault(kind, deque())
        if not line and not self._running[kind]:
            self._moved[kind] = asyncio.get_running_loop().time()  # the kind waits from now on
        line.append((next(self._numbers), item))
        self._changed.set()

    async def take(self) -> tuple[str, T]:
        """Wait for work that may begin, and return its kind and the work. Call `done` when the work has ended."""
        while (kind := self._next()) is None:
            self._changed.clear()
            await self._changed.wait()
        self._running[kind] += 1
        self._is_turn_of_borrowers = True
        self._moved[kind] = asyncio.get_running_loop().time()
        return kind, self._waiting[kind].popleft()[1]

    def done(self, kind: str) -> None:
        """Record that a piece of work of the given kind has ended."""
        self._running[kind] -= 1
        self._moved[kind] = asyncio.get_running_loop().time()
        self._changed.set()

    async def borrow(self) -> None:
        """Wait for a place for other work, and take the place. Call `give_back` when that work has ended.

        Other work and the work of this queue take turns. If the queue has at least four places, other work cannot
        borrow the places that are kept free.
        """
        self._borrowers += 1
        try:
            while not self._may_be_lent():
                self._changed.clear()
                await self._changed.wait()
            self._lent += 1
            self._is_turn_of_borrowers = False
        finally:
            self._borrowers -= 1
            self._changed.set()

    def give_back(self) -> None:
        """Record that work which had borrowed a place has ended."""
        self._lent -= 1
        self._changed.set()

    def stuck(self, seconds: float) -> list[str]:
        """Return the kinds that wait for a place, and of which no work began or ended for `seconds` seconds."""
        before = asyncio.get_running_loop().time() - seconds
        waiting = [kind for kind, line in self._waiting.items() if line and not self._may_begin(kind)]
        return [kind for kind in waiting if self._moved[kind] <= before]

    def remove_newest(self, kind: str, longest: int, may_go: Callable[[T], bool]) -> T | None:
        """Among the waiting work of the given kind, remove and return the newest piece for which `may_go` is true.

        Return `None` when `may_go` is false for all of the work, or when at most `longest` pieces of the kind wait.
        """
        line = self._waiting[kind]
        found = next((entry for entry in reversed(line) if may_go(entry[1])), None) if len(line) > longest else None
        if found is None:
            return None
        line.remove(found)
        return found[1]

    def drop_newest(self, kind: str) -> T | None:
        """Remove and return the newest work of the kind with the most waiting work.

        Return `None` when no kind has more waiting work than `kind`.
        """
        longest = max(self._waiting, key=lambda each: len(self._waiting[each]))
        if len(self._waiting[longest]) <= len(self._waiting[kind]):
            return None
        return self._waiting[longest].pop()[1]

    def drop(self, unwanted: Callable[[T], bool]) -> list[T]:
        """Remove and return all waiting work for which `unwanted` is true."""
        dropped = [item for item in self if unwanted(item)]
        for kind, line in self._waiting.items():
            self._waiting[kind] = deque((number, item) for number, item in line if not unwanted(item))
        return dropped

    def clear(self) -> list[T]:
        """Remove and return all waiting work."""
        return self.drop(lambda _: True)

    def _next(self) -> str | None:
        ready = [(line[0][0], kind) for kind, line in self._waiting.items() if line and self._may_begin(kind)]
        return min(ready)[1] if ready else None

    def _may_begin(self, kind: str) -> bool:
        if self._borrowers and self._is_turn_of_borrowers and self._may_be_lent():
            return False
        return self._free() > (self._kept_free() if self._running[kind] else 0)

    def _may_be_lent(self) -> bool:
        return self._free() > (self._kept_free() if self._places >= _ENOUGH else 0)

    def _free(self) -> int:
        return self._places - self._running.total() - self._lent

    def _kept_free(self) -> int:
        """Return how many places are kept free now, for kinds of which no work is running."""
        idle = sum(not self._running[kind] for kind in self._kinds)
        return min(idle, max(1, self._places // _KEPT_FREE))
