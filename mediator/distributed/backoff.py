"""Backoff: growing pauses between tries."""

import random


class Backoff:
    """Computes pauses that double from `first` to `last` seconds.

    Each pause is shortened at random by up to half, so that processes do not try again all at the same time.
    """

    def __init__(self, first: float, last: float, rng: random.Random) -> None:
        self._first = first
        self._last = last
        self._rng = rng
        self._tries = 0

    def next(self) -> float:
        """Return the next pause, in seconds."""
        pause = self.at(self._tries)
        self._tries += 1
        return pause

    def at(self, tries: int) -> float:
        """Return the pause, in seconds, after `tries + 1` failures in a row."""
        pause = min(self._first * 2.0 ** min(tries, 60), self._last)
        return pause * self._rng.uniform(0.5, 1.0)

    def reset(self) -> None:
        """Start again with the first pause."""
        self._tries = 0
