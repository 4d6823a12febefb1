"""Brokers: checks whether each broker answers, is new enough, and accepts events of the maximum size."""

from collections.abc import AsyncIterator, Iterator

from mediator.cli.doctor.finding import Check, Finding, fault, found_or, ok, warning
from mediator.cli.doctor.installation import Broker, Installation

_OLDEST = (2, 10)
"""The oldest supported version of nats-server."""
_BATCHES = (2, 12)
"""The first version of nats-server with atomic batches."""
_HEADER_BYTES = 16_384
"""Bytes that are reserved for the headers of an event. Headers and payload together must not exceed `max_payload`."""

_FULL = 0.8
"""The share of an account's storage above which the storage counts as nearly full."""


class Brokers(Check):
    """Checks server, JetStream, version and sizes of each broker."""

    name = "broker"

    async def run(self, installation: Installation) -> AsyncIterator[Finding]:
        for broker in installation.brokers:
            seen = broker.seen
            fine = ok("broker", broker.label, f"nats-server {seen.server_version} at {seen.broker}")
            for finding in found_or(_faults(broker, installation.max_event_bytes), fine):
                yield finding


def _faults(broker: Broker, max_event_bytes: int) -> Iterator[Finding]:
    seen, label = broker.seen, broker.label
    why = "; ".join(seen.problems)
    if not seen.reachable:
        remedy = (
            "Check that the server runs, and that address, user and password are right. Until the server answers, "
            "events wait."
        )
        yield fault("broker-unreachable", label, f"{seen.broker} does not answer: {why}", remedy)
        return
    yield from _versions(broker)
    if not broker.wanted.streams:
        return
    if seen.jetstream is False:
        remedy = "Add `jetstream {}` to the server, and `jetstream: enabled` to the account."
        yield fault("jetstream-disabled", label, f"{seen.broker} has no JetStream for this account: {why}", remedy)
        return
    if seen.max_payload < max_event_bytes + _HEADER_BYTES:
        text = (
            f"max_payload is {seen.max_payload:,} bytes, but an event may have {max_event_bytes:,} bytes and "
            f"{_HEADER_BYTES:,} bytes of headers: events above max_payload are parked instead of published"
        )
        remedy = f"Set max_payload to at least {max_event_bytes + _HEADER_BYTES}, or lower max_event_bytes."
        yield fault("max-payload", label, text, remedy)
    account = seen.account
    if account is not None and account.max_storage > 0 and account.storage > _FULL * account.max_storage:
        text = f"{account.storage:,} of {account.max_storage:,} bytes of the account are used"
        yield warning("broker-storage", label, text, "Raise the account's limit, or lower the streams' limits.")
    if why:
        yield warning("broker-unseen", label, f"some checks were not possible: {why}", _ALLOW)
    elif broker.problem:
        text = f"the streams and consumers could not be listed: {broker.problem}"
        yield warning("broker-unseen", label, text, _ALLOW)


_ALLOW = "Give the application's user the missing permission."


def _versions(broker: Broker) -> Iterator[Finding]:
    version = tuple(int(part) for part in broker.seen.server_version.split(".")[:2])
    if version < _OLDEST:
        need = "a consumer with several event types needs 2.10"
        text = f"nats-server {broker.seen.server_version} is older than 2.10, but {need}"
        yield fault("broker-version", broker.label, text, "Upgrade the server.")
    elif version < _BATCHES and any(stream.settings.atomic_batches for stream in broker.wanted.streams):
        text = f"nats-server {broker.seen.server_version} is older than 2.12, so it has no atomic batches"
        yield warning("broker-version", broker.label, text, "Upgrade the server, or set atomic_batches=False.")


LARGEST_OFFSET = 2.0
"""Seconds by which a clock may differ from this machine's clock without a warning."""


class BrokerClocks(Check):
    """Checks the clock of each broker that has a stream."""

    name = "broker-clocks"

    async def run(self, installation: Installation) -> AsyncIterator[Finding]:
        for broker in installation.brokers:
            if broker.offset is not None:
                yield compared(broker.label, "the broker", broker.offset)


def compared(label: str, whose: str, offset: float) -> Finding:
    """Return the finding about a clock that is `offset` seconds ahead of this machine's clock."""
    if abs(offset) <= LARGEST_OFFSET:
        return ok("clock", label, f"the clock of {whose} agrees with this machine's clock")
    direction = "ahead of" if offset > 0 else "behind"
    text = f"the clock of {whose} is {abs(offset):.1f} s {direction} this machine's clock"
    remedy = "Synchronize both clocks with NTP: delays, grace periods and retention depend on them."
    return warning("clock-offset", label, text, remedy)
