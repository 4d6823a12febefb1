"""Consumers: checks whether the wanted consumers exist, never drop an event, and keep pace."""

import math
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass

from mediator.cli.doctor.finding import Check, Finding, fault, found_or, ok, warning
from mediator.cli.doctor.inspection import ConsumerState
from mediator.cli.doctor.installation import Broker, Consumer, Installation
from mediator.distributed.inbox import needed_retention
from mediator.nats.topology import Topology

_APPLY = "Run `mediator topology apply MODULE:NAME`, or start the application, if it may create it."
_ORDERING = "not created: its group"
_TOLD = ("max_deliver is", "ack_wait is", _ORDERING)
"""The differences that are reported by findings of their own."""
_FULL = 0.8
"""The share of a group's places (`max_ack_pending`) that counts as nearly all of them."""
_FEWEST_A_SECOND = 0.1
"""Failing events per second for which a group must have places, each held until the event's last try."""
_MORE = (
    "Raise `max_ack_pending` of the subscription, or give the consumer shorter `retry_delays`, fewer `max_attempts` or a "
    "parking; an error that no other try would change belongs into `fatal_errors`."
)


class Consumers(Check):
    """Checks each wanted consumer, and the consumers of its group that are no longer needed."""

    name = "consumers"

    async def run(self, installation: Installation) -> AsyncIterator[Finding]:
        for broker in installation.brokers:
            for finding in [*_missing(broker), *_unneeded(broker)]:
                yield finding
            for state in broker.seen.consumers:
                label = f"{broker.label} {state.stream} {state.name}"
                tries = _tries(installation, broker, state)
                done = f"{state.pending:,} events before it, up to {state.ack_floor:,} done"
                fine = ok("consumer", label, "; ".join([done, *([tries.text] if tries else [])]))
                faults = [*_faults(label, state, broker, installation.options.lag), *_places(label, state, tries)]
                for finding in found_or(iter(faults), fine):
                    yield finding


def _missing(broker: Broker) -> Iterator[Finding]:
    """Yield one finding for each stream, which may lack many consumers."""
    by_stream: dict[str, list[str]] = {}
    for stream, name in broker.seen.missing_consumers:
        if not _is_refused(broker, stream, name):
            by_stream.setdefault(stream, []).append(name)
    for stream, names in by_stream.items():
        label = f"{broker.label} {stream}"
        others = _other_orderings(broker, stream)
        for text in others:
            remedy = "Give the group its old ordering, or a new name; two orderings in one group lose the order."
            yield fault("group-ordering", label, text, remedy)
        if not others and stream not in broker.seen.missing_streams:  # the check of the streams reports it
            yield fault("consumer-missing", label, f"does not have: {', '.join(names)}", _APPLY)


def _is_refused(broker: Broker, stream: str, consumer: str) -> bool:
    """Return whether a consumer's group refuses the stream for its partitions; the streams' check reports it."""
    refused = {wanted.name for wanted, _ in broker.with_other_partitions() if wanted.ordered} & {stream}
    ordered = [each for each in broker.wanted.consumers if each.settings.name != each.group]
    of_groups = [each for each in ordered if each.stream in refused]
    return Topology(consumers=tuple(of_groups)).is_of_group(consumer)


def _other_orderings(broker: Broker, stream: str) -> list[str]:
    """Return the texts that say that a group consumes this stream with the other ordering."""
    details = (each for item in broker.compared or () if item.stream == stream for each in item.details)
    return list(dict.fromkeys(each for each in details if each.startswith(_ORDERING)))


def _unneeded(broker: Broker) -> Iterator[Finding]:
    wanted = {(each.stream, each.settings.name) for each in broker.wanted.consumers}
    for item in broker.compared or ():
        unneeded = item.status == "unwanted" and item.consumer and (item.stream, item.consumer) not in wanted
        refused = _is_refused(broker, item.stream, item.consumer)
        if unneeded and not refused and not _other_orderings(broker, item.stream):
            label = f"{broker.label} {item.stream} {item.consumer}"
            yield warning("consumer-unneeded", label, "; ".join(item.details), "Delete it when no version needs it.")


def _faults(label: str, state: ConsumerState, broker: Broker, lag: int) -> Iterator[Finding]:
    if state.max_deliver != -1:
        text = f"max_deliver is {state.max_deliver}: after so many deliveries the broker drops an event silently"
        yield fault("consumer-max-deliver", label, text, "Set max_deliver to -1; failing events are parked by us.")
    if not _is_refused(broker, state.stream, state.name):
        yield from _differences(label, state, broker)
        yield from _pace(label, state, lag)


def _differences(label: str, state: ConsumerState, broker: Broker) -> Iterator[Finding]:
    wanted = {
        each.settings.ack_wait
        for each in broker.wanted.consumers
        if (each.stream, each.settings.name) == (state.stream, state.name)
    }
    if state.ack_wait not in wanted:
        text = f"ack_wait is {state.ack_wait:g} s, and the application asks to be waited for {min(wanted):g} s"
        yield warning("consumer-ack-wait", label, text, "Run `mediator topology apply MODULE:NAME`.")
    details = [each for each in _details(broker, state.stream, state.name) if not each.startswith(_TOLD)]
    if details:
        text = f"it differs from what is wanted: {'; '.join(details)}"
        yield warning("consumer-differs", label, text, "See `mediator topology plan`.")


def _pace(label: str, state: ConsumerState, lag: int) -> Iterator[Finding]:
    done = f"{state.pending:,} events are before it and {state.unacknowledged:,} out; up to {state.ack_floor:,} all are done"
    if state.paused:
        yield warning("consumer-paused", label, f"it is paused; {done}", "Resume it: `nats consumer resume`.")
    elif state.pending > 0 and state.waiting == 0 and state.unacknowledged == 0:
        yield warning("consumer-idle", label, f"nobody takes events; {done}", "Start `mediator run MODULE:NAME`.")
    elif state.pending > lag:
        yield warning("consumer-lag", label, done, "Run more processes, or raise `concurrency`.")


@dataclass(frozen=True, slots=True)
class _Tries:
    """The places of a group (`max_ack_pending`), and the seconds for which a failing event holds one of them."""

    places: int
    seconds: float

    @property
    def text(self) -> str:
        count = f"{self.places:,} failing events of one type fill its places (max_ack_pending)"
        if math.isinf(self.seconds):
            return f"{count} for ever, since it has no parking, and no other event comes then"
        return f"{count} for up to {self.seconds:,.0f} s, and no other event comes then"


def _tries(installation: Installation, broker: Broker, state: ConsumerState) -> _Tries | None:
    """Return the tries of an unordered group of this application. In an ordered group, each partition has one place."""
    for each in installation.consumers:
        is_its = each.broker is broker.connection and state.stream in each.streams and state.name == each.group
        if is_its and each.ordering == "none":
            return _Tries(state.max_ack_pending, each.retries.longest if each.parks else math.inf)
    return None


def _places(label: str, state: ConsumerState, tries: _Tries | None) -> Iterator[Finding]:
    if tries is None:
        return
    if state.unacknowledged >= _FULL * state.max_ack_pending:
        text = f"{state.unacknowledged:,} events are out, and {state.max_ack_pending:,} may be; {tries.text}"
        yield warning("consumer-full", label, text, f"See in the log which type fails (`delivery failed`). {_MORE}")
    elif state.max_ack_pending < _FEWEST_A_SECOND * tries.seconds:
        yield warning("consumer-places", label, tries.text, _MORE)


def _details(broker: Broker, stream: str, name: str) -> tuple[str, ...]:
    found = (item.details for item in broker.compared or () if (item.stream, item.consumer) == (stream, name))
    return next(found, ())


class Retention(Check):
    """Checks that each inbox remembers events for longer than the streams and the archive keep them."""

    name = "inbox-retention"

    async def run(self, installation: Installation) -> AsyncIterator[Finding]:
        for consumer in installation.consumers:
            fine = ok("inbox-retention", consumer.label, "events are remembered for longer than they can come again")
            if consumer.inboxes:
                for finding in found_or(_retention_faults(consumer, installation), fine):
                    yield finding


def _retention_faults(consumer: Consumer, installation: Installation) -> Iterator[Finding]:
    streams = {
        stream.name: stream.max_age
        for broker in installation.brokers
        if broker.connection is consumer.broker
        for stream in broker.seen.streams
        if stream.name in consumer.streams
    }
    for name in [name for name, age in streams.items() if age == 0]:
        text = f"the stream {name} keeps events for ever, and the inbox forgets them"
        yield warning("inbox-retention", f"{consumer.label} {name}", text, "Set max_age at the stream.")
    needed = needed_retention(stream=max(streams.values(), default=0.0), archive=installation.archive_seconds)
    for inbox in consumer.inboxes:
        kept: float = inbox.value.keep_seconds
        if kept < needed:
            text = (
                f"keep_seconds is {kept:g}, and {needed:g} are needed: a day more than streams ({_ages(streams)}) and "
                f"archives ({installation.archive_seconds:g} s) keep events, else one can take effect twice"
            )
            yield fault("inbox-retention", inbox.label, text, f"Set keep_seconds to {needed:g} or more.")


def _ages(streams: dict[str, float]) -> str:
    return ", ".join(f"{name}: {age:g} s" for name, age in streams.items()) or "none"
