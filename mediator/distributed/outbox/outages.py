"""Outages: the domains whose events the broker does not store at present, and when to try each domain again."""

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
_OF_ONE_STREAM = (StreamNotFoundError, StreamMismatchError, StreamUnavailableError)


@dataclass(slots=True)
class _Outage:
    backoff: Backoff
    until: float
    reason: str


class Outages:
    """While the stream of one domain is unavailable, lets a relay publish the events of all other domains.

    A domain is the first part of an event's type, and has its own stream. The stream may be missing, full or without a
    leader. During the outage the events of the domain wait in the outbox, and their failures are not counted.

    Some errors do not show whether only one stream or the whole broker is unavailable. After such an error the domains
    of the failed events are suspected, and the relay tries other domains first. When the broker answers for a
    domain that is not suspected, an outage of each suspected domain begins. `clock` returns monotonic seconds.
    """

    def __init__(self, rng: random.Random, clock: Callable[[], float]) -> None:
        self._rng = rng
        self._clock = clock
        self._outages: dict[str, _Outage] = {}
        self._suspects: dict[str, Exception] = {}
        self._log: Logger = Logger(worker="relay")  # in log lines, "context" means the domain

    def domains(self) -> frozenset[str]:
        """Return the domains whose events must not be published yet."""
        now = self._clock()
        return (
            frozenset(domain for domain, outage in self._outages.items() if outage.until > now) | self._suspects.keys()
        )

    def retry_suspects(self) -> bool:
        """Let the suspected domains be tried again; return false when no domain is suspected."""
        pardoned = bool(self._suspects)
        self._suspects.clear()
        return pardoned

    def next_try(self) -> float | None:
        """Return the seconds until a domain with an outage may be tried again; `None` when no domain has an outage."""
        if not self._outages:
            return None
        return max(0.0, min(outage.until for outage in self._outages.values()) - self._clock())

    def note(self, results: Sequence[PublishResult]) -> Exception | None:
        """Update the outages and the suspected domains from the results of one publish call.

        Results of events that were held back are ignored. Return `None` if the broker stored or refused at least one
        event, or if each error can only concern the stream of its own domain. Otherwise the whole broker may be
        unavailable: suspect the domains of the failed events, and return an error that may concern the whole broker.
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
        general = {domain: error for domain, error in failed.items() if not isinstance(error, _OF_ONE_STREAM)}
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
        """Forget the outages of the domains that have no waiting events any more.

        Such a domain gets no results, so no result would ever end its outage. Nothing is logged, because its stream may
        still be unavailable. Call this when the outbox has no further events to claim.

        Args:
            left_out: The domains that the last claim left out. Their events may still wait.
            results: The results of the last batch. Events of the domains in it may still wait.
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
