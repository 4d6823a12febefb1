"""Outages: the domains of which the broker takes no events at present, and when to try each of them again."""

import random
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

from mediator.distributed.backoff import Backoff
from mediator.distributed.outbox.publisher import PublishResult
from mediator.errors import (
    EventHeldBackError,
    EventRefusedError,
    StreamMismatchError,
    StreamNotFoundError,
    StreamUnavailableError,
)
from mediator.logger import Logger
from mediator.printable import text_of

_FIRST_PAUSE = 0.1
_LAST_PAUSE = 15.0


@dataclass(slots=True)
class _Outage:
    backoff: Backoff
    until: float
    reason: str


class Outages:
    """Lets a relay go on with the other domains when the stream of one is missing, full or without a leader.

    A domain is the first part of an event's type, and names its stream. An outage counts against no event: the events
    of the domain wait in the outbox.

    Args:
        rng: The random numbers for the jitter of pauses.
        clock: Returns the monotonic time in seconds.
    """

    def __init__(self, rng: random.Random, clock: Callable[[], float]) -> None:
        self._rng = rng
        self._clock = clock
        self._outages: dict[str, _Outage] = {}
        self._suspects: dict[str, Exception] = {}
        self._log: Logger = Logger(worker="relay")

    def domains(self) -> frozenset[str]:
        """Return the domains that are not to be tried yet."""
        now = self._clock()
        return (
            frozenset(domain for domain, outage in self._outages.items() if outage.until > now) | self._suspects.keys()
        )

    def retry_suspects(self) -> bool:
        """Try the suspected domains again; return false when there are none.

        A domain is suspected when only its events have shown that the broker may be away.
        """
        pardoned = bool(self._suspects)
        self._suspects.clear()
        return pardoned

    def next_try(self) -> float | None:
        """Return in how many seconds a domain is to be tried again, 0 when it is due; `None` without an outage."""
        if not self._outages:
            return None
        return max(0.0, min(outage.until for outage in self._outages.values()) - self._clock())

    def note(self, results: Sequence[PublishResult]) -> Exception | None:
        """Learn from the results of one publish call. An event that was held back says nothing about its domain.

        Returns:
            The first error, if the broker stored and refused nothing at all: then more than a single domain may be
            affected. An error that is known to concern only its stream is not returned. A batch may be full of one
            domain's events, though, so other domains are tried first after such an error. When the broker answers for
            one of them, only the domains before were affected.
        """
        failed: dict[str, Exception] = {}
        answered: set[str] = set()
        for result in results:
            if result.error is None or isinstance(result.error, EventRefusedError):
                answered.add(_domain(result))
            elif not isinstance(result.error, EventHeldBackError):
                failed.setdefault(_domain(result), result.error)
        for domain in answered - failed.keys():
            self._end(domain)
        general = {domain: error for domain, error in failed.items() if not _is_of_one_stream(error)}
        if general and not answered:
            self._suspects |= failed
            return next(iter(general.values()))
        if answered:
            failed = self._suspects | failed
            self._suspects = {}
        for domain, error in failed.items():
            self._begin(domain, error)
        return None

    def forget(self, *, left_out: Collection[str], results: Sequence[PublishResult]) -> None:
        """Forget the outages of domains in which no event waits any more.

        This follows a claim of everything that waits. Another relay has sent the events, or they wait behind a refused
        event, so no answer will ever come here. Nothing is logged, because it is not known whether the domain takes
        events again.

        Args:
            left_out: The domains that the claim left out.
            results: The results of publishing the events that the claim returned.
        """
        waiting = {*left_out, *(_domain(result) for result in results)}
        for domain in self._outages.keys() - waiting:
            del self._outages[domain]

    def _begin(self, domain: str, error: Exception) -> None:
        outage = self._outages.get(domain)
        if outage is None:
            backoff = Backoff(_FIRST_PAUSE, _LAST_PAUSE, self._rng)
            outage = self._outages[domain] = _Outage(backoff, 0.0, "")
        outage.until = self._clock() + outage.backoff.next()
        kind = type(error).__name__
        if kind != outage.reason:
            outage.reason = kind
            self._log.error("context waits", context=domain, error=kind, reason=text_of(error))

    def _end(self, domain: str) -> None:
        outage = self._outages.pop(domain, None)
        if outage is not None:
            self._log.info("context goes on", context=domain, after=outage.reason)


def _domain(result: PublishResult) -> str:
    return result.event.type.partition(".")[0]


def _is_of_one_stream(error: Exception) -> bool:
    return isinstance(error, StreamNotFoundError | StreamMismatchError | StreamUnavailableError)
