"""Streams: checks whether the wanted streams exist, and whether they keep events safely and long enough."""

from collections.abc import AsyncIterator, Iterator

from mediator.cli.doctor.finding import Check, Finding, fault, found_or, ok, warning
from mediator.cli.doctor.inspection import StreamState
from mediator.cli.doctor.installation import Broker, Installation
from mediator.nats.topology import PARTITIONS

_APPLY = "Run `mediator topology apply MODULE:NAME`, or start an application that may create the stream."
_RECREATE = "Drain the stream, delete it and create it again: this setting of an existing stream is never changed."

_RETRY_HORIZON = 60.0
"""The time, in seconds, that may pass between the first and the second try of a relay to publish an event.

This time includes the longest pause, the time of a batch, and the time until another relay takes over.
"""

_CLUSTER = 3
"""A broker with at least this number of servers counts as a cluster. A stream on a cluster should have three copies."""
_FULL = 0.8
"""The share of a stream's maximum size above which the stream counts as nearly full."""
_REPORTED_APART = ("storage is", "discard is", "retention is", "duplicate_window is", "num_replicas is", PARTITIONS)
"""`stream-differs` leaves out differences that begin with these texts, because other findings report them."""


class Streams(Check):
    """Checks each wanted stream."""

    name = "streams"

    async def run(self, installation: Installation) -> AsyncIterator[Finding]:
        for broker in installation.brokers:
            for name in broker.seen.missing_streams:
                yield fault("stream-missing", f"{broker.label} {name}", "the stream does not exist", _APPLY)
            for stream in broker.seen.streams:
                label = f"{broker.label} {stream.name}"
                fine = ok("stream", label, f"{stream.messages:,} events, {stream.bytes:,} bytes")
                for finding in found_or(_faults(label, stream, broker), fine):
                    yield finding


def _faults(label: str, stream: StreamState, broker: Broker) -> Iterator[Finding]:
    if stream.discard != "new":
        text = "discard is old: when the stream is full, it drops events that nobody has taken yet"
        yield fault(
            "stream-discard-old", label, text, "Set discard to new. Events then wait until a full stream has room."
        )
    if stream.storage != "file":
        text = f"storage is {stream.storage}: the stream loses its events when the broker restarts"
        yield fault("stream-storage", label, text, _RECREATE)
    if stream.retention != "limits":
        text = f"retention is {stream.retention}: events are removed before later subscribers see them"
        yield fault("stream-retention", label, text, _RECREATE)
    yield from _partitions(label, stream, broker)
    if stream.duplicate_window < _RETRY_HORIZON:
        again = f"a relay may publish an event again up to {_RETRY_HORIZON:g} s later"
        text = f"duplicate_window is {stream.duplicate_window:g} s, but {again}"
        remedy = f"Set duplicate_window to {_RETRY_HORIZON:g} s or more (`topology apply --update-streams`)."
        yield warning("stream-duplicate-window", label, text, remedy)
    yield from _copies(label, stream, broker)
    if stream.max_bytes > 0 and stream.bytes > _FULL * stream.max_bytes:
        text = f"{stream.bytes:,} of {stream.max_bytes:,} bytes are used; a full stream refuses events"
        yield warning("stream-filling", label, text, "Raise max_bytes, or shorten max_age.")
    yield from _other_differences(label, stream, broker)


def _partitions(label: str, stream: StreamState, broker: Broker) -> Iterator[Finding]:
    for wanted, there in broker.with_other_partitions():
        if there is not stream:
            continue
        has = f"has {stream.partitions}" if stream.partitions else "does not state its number of"
        needed = f"{wanted.settings.partitions} are needed: publishers and ordered groups refuse this stream"
        text = f"the stream {has} partitions, and {needed}"
        remedy = f"Set StreamSettings(partitions={stream.partitions}), or drain the stream and create it again."
        yield fault("stream-partitions", label, text, remedy if stream.partitions else _RECREATE)


def _copies(label: str, stream: StreamState, broker: Broker) -> Iterator[Finding]:
    if stream.persist_mode == "async":
        text = "persist_mode is async: the stream acknowledges events before it writes them"
        yield fault("stream-persist-mode", label, text, _RECREATE)
    if stream.replicas == 1 and broker.seen.servers >= _CLUSTER:
        text = (
            f"only one of the broker's {broker.seen.servers} servers has a copy: while that server is down, events wait"
        )
        yield warning("stream-replicas", label, text, "Set StreamSettings(replicas=3) and update the stream.")
    elif stream.replicas == 1 and broker.seen.sync_always is False:
        text = (
            "the only server with a copy acknowledges events before they are on its disk: a power failure loses events"
        )
        remedy = (
            "Set `sync_interval: always` in the jetstream block, or use three servers. Lost events can be published again "
            "from the archive."
        )
        yield warning("stream-sync-interval", label, text, remedy)
    if stream.offline_replicas:
        text = f"the copies on {', '.join(stream.offline_replicas)} are offline or behind"
        remedy = "Repair these servers: if one more server goes offline, events have to wait."
        yield warning("stream-replica-away", label, text, remedy)


def _other_differences(label: str, stream: StreamState, broker: Broker) -> Iterator[Finding]:
    for item in broker.compared or ():
        details = [each for each in item.details if not each.startswith(_REPORTED_APART)]
        if item.stream == stream.name and not item.consumer and details:
            text = f"the stream differs from its settings: {'; '.join(details)}"
            yield warning("stream-differs", label, text, "See `mediator topology plan`.")
