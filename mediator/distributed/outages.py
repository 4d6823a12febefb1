"""Outages: of which contexts the broker takes no events at present, and when each of them is tried again."""

import random
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

import structlog

from mediator.distributed.publisher import PublishResult
from mediator.distributed.retries import Backoff
from mediator.errors import (
    EventHeldBackError,
    EventRefusedError,
    StreamMismatchError,
    StreamNotFoundError,
    StreamUnavailableError,
)

_FIRST_PAUSE = 0.1
_LAST_PAUSE = 15.0


@dataclass(slots=True)
class _Outage:
    backoff: Backoff
    until: float
    reason: str


class Outages:
    """Lets a relay go on with the other contexts when the stream of one is missing, full or without a leader.

    A context is the first part of an event's type, and names its stream. No event is held against an outage: those of the
    context wait in the outbox.

    Args:
        rng: For the jitter of pauses.
        clock: Monotonic time in seconds.
    """

    def __init__(self, rng: random.Random, clock: Callable[[], float]) -> None:
        self._rng = rng
        self._clock = clock
        self._outages: dict[str, _Outage] = {}
        self._log: structlog.stdlib.BoundLogger = structlog.get_logger("mediator").bind(worker="relay")

    def contexts(self) -> frozenset[str]:
        """The contexts that are not to be tried yet."""
        now = self._clock()
        return frozenset(context for context, outage in self._outages.items() if outage.until > now)

    def next_try(self) -> float | None:
        """In how many seconds a context is to be tried again, 0 when it is time; `None` when there is no outage."""
        if not self._outages:
            return None
        return max(0.0, min(outage.until for outage in self._outages.values()) - self._clock())

    def note(self, results: Sequence[PublishResult]) -> Exception | None:
        """Learn from the results of one call. An event that was held back says nothing of its context.

        Returns:
            The first error, if the broker stored or judged nothing at all: that is no matter of a single context. A batch
            may be full of one context's events, though, so what is known to be a matter of its stream is no such error.
        """
        failed: dict[str, Exception] = {}
        answered: set[str] = set()
        for result in results:
            if result.error is None or isinstance(result.error, EventRefusedError):
                answered.add(_context(result))
            elif not isinstance(result.error, EventHeldBackError):
                failed.setdefault(_context(result), result.error)
        for context in answered - failed.keys():
            self._end(context)
        general = {context: error for context, error in failed.items() if not _is_of_one_stream(error)}
        if general and not answered:
            return next(iter(general.values()))
        for context, error in failed.items():
            self._begin(context, error)
        return None

    def forget(self, *, left_out: Collection[str], results: Sequence[PublishResult]) -> None:
        """Forget the outages that a claim of all there is has shown to be over, because nothing of them waits any more.

        Another relay has sent it, or it waits behind a refused event: no answer will ever come here. Nothing is logged,
        because whether the context takes events again is not known.

        Args:
            left_out: The contexts that the claim left out.
            results: What became of the events that it gave.
        """
        waiting = {*left_out, *(_context(result) for result in results)}
        for context in self._outages.keys() - waiting:
            del self._outages[context]

    def _begin(self, context: str, error: Exception) -> None:
        outage = self._outages.get(context)
        if outage is None:
            backoff = Backoff(_FIRST_PAUSE, _LAST_PAUSE, self._rng)
            outage = self._outages[context] = _Outage(backoff, 0.0, "")
        outage.until = self._clock() + outage.backoff.next()
        kind = type(error).__name__
        if kind != outage.reason:
            outage.reason = kind
            self._log.error("context waits", context=context, error=kind, reason=str(error))

    def _end(self, context: str) -> None:
        outage = self._outages.pop(context, None)
        if outage is not None:
            self._log.info("context goes on", context=context, after=outage.reason)


def _context(result: PublishResult) -> str:
    return result.event.type.partition(".")[0]


def _is_of_one_stream(error: Exception) -> bool:
    return isinstance(error, StreamNotFoundError | StreamMismatchError | StreamUnavailableError)
