"""Consumers: checks whether the wanted consumers exist, never drop an event, and keep up with the events.

A group has `max_ack_pending` places. A delivered event holds a place until the event is acknowledged. While no place is
free, the broker delivers no event to the group.
"""

import math
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass

from mediator.cli.doctor.finding import Check, Finding, fault, found_or, ok, warning
from mediator.cli.doctor.inspection import ConsumerState
from mediator.cli.doctor.installation import Broker, Consumer, Installation
from mediator.distributed.inbox import needed_retention
from mediator.nats.topology import OTHER_ORDERING, Topology

_APPLY = "Run `mediator topology apply MODULE:NAME`, or start an application that may create consumers."
_DELETE = "Delete the consumer when no running version of the application needs it."
_REPORTED_SEPARATELY = ("max_deliver is", "ack_wait is", OTHER_ORDERING)
"""`consumer-differs` leaves out differences that begin with these texts, because other findings report them."""
_FULL = 0.8
"""A group counts as nearly full when at least this share of its places is held."""
_ADD_PLACES = (
    "Give the consumer a parking if it has none, or raise `max_ack_pending` of the subscription. In `fatal_errors`, list "
    "the errors that no retry can solve."
)


class Consumers(Check):
    """Checks each wanted consumer, and finds unneeded consumers of the same groups."""

    name = "consumers"

    async def run(self, installation: Installation) -> AsyncIterator[Finding]:
        for broker in installation.brokers:
            for finding in [*_missing(broker), *_unneeded(broker)]:
                yield finding
            for state in broker.seen.consumers:
                label = f"{broker.label} {state.stream} {state.name}"
                places = _places_of(installation, broker, state)
                done = f"{state.pending:,} events wait, and all events up to number {state.ack_floor:,} are done"
                fine = ok("consumer", label, "; ".join([done, *([places.text] if places else [])]))
                faults = [*_faults(label, state, broker, installation.options.lag), *_shortage(label, state, places)]
                for finding in found_or(iter(faults), fine):
                    yield finding


def _missing(broker: Broker) -> Iterator[Finding]:
    """Yield a finding for each stream with missing consumers.

    If a group already consumes the stream with an ordering that is not wanted, yield a finding about this group instead.
    """
    by_stream: dict[str, list[str]] = {}
    for stream, name in broker.seen.missing_consumers:
        if not _is_refused(broker, stream, name):
            by_stream.setdefault(stream, []).append(name)
    for stream, names in by_stream.items():
        label = f"{broker.label} {stream}"
        others = _other_orderings(broker, stream)
        for text in others:
            remedy = (
                "Give the group its old ordering, or choose a new name for the group. In a group with both orderings, "
                "events would lose their order."
            )
            yield fault("group-ordering", label, text, remedy)
        if not others and stream not in broker.seen.missing_streams:  # the check `Streams` reports a missing stream
            text = f"the stream lacks the consumer{'s' if len(names) > 1 else ''} {', '.join(names)}"
            yield fault("consumer-missing", label, text, _APPLY)


def _is_refused(broker: Broker, stream: str, consumer: str) -> bool:
    """Return whether the group of a consumer refuses the stream because of the stream's number of partitions.

    The check `Streams` reports this number.
    """
    refused = {wanted.name for wanted, _ in broker.with_other_partitions() if wanted.ordered} & {stream}
    ordered = [each for each in broker.wanted.consumers if each.settings.name != each.group]
    of_groups = [each for each in ordered if each.stream in refused]
    return Topology(consumers=tuple(of_groups)).is_of_group(consumer)


def _other_orderings(broker: Broker, stream: str) -> list[str]:
    """Return a text for each group that already consumes the stream with an ordering that is not wanted."""
    details = (each for item in broker.compared or () if item.stream == stream for each in item.details)
    return list(dict.fromkeys(each for each in details if each.startswith(OTHER_ORDERING)))


def _unneeded(broker: Broker) -> Iterator[Finding]:
    wanted = {(each.stream, each.settings.name) for each in broker.wanted.consumers}
    for item in broker.compared or ():
        unneeded = item.status == "unwanted" and item.consumer and (item.stream, item.consumer) not in wanted
        refused = _is_refused(broker, item.stream, item.consumer)
        if unneeded and not refused and not _other_orderings(broker, item.stream):
            label = f"{broker.label} {item.stream} {item.consumer}"
            yield warning("consumer-unneeded", label, "; ".join(item.details), _DELETE)


def _faults(label: str, state: ConsumerState, broker: Broker, lag: int) -> Iterator[Finding]:
    if state.max_deliver != -1:
        text = (
            f"max_deliver is {state.max_deliver}: after this number of deliveries, the broker silently drops an event"
        )
        remedy = "Set max_deliver to -1. The library itself parks an event that keeps failing."
        yield fault("consumer-max-deliver", label, text, remedy)
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
        text = f"ack_wait is {state.ack_wait:g} s, but the application needs {min(wanted):g} s"
        yield warning("consumer-ack-wait", label, text, "Run `mediator topology apply MODULE:NAME`.")
    key = (state.stream, state.name)
    found = next((item.details for item in broker.compared or () if (item.stream, item.consumer) == key), ())
    details = [each for each in found if not each.startswith(_REPORTED_SEPARATELY)]
    if details:
        text = f"the consumer differs from its settings: {'; '.join(details)}"
        yield warning("consumer-differs", label, text, "See `mediator topology plan`.")


def _pace(label: str, state: ConsumerState, lag: int) -> Iterator[Finding]:
    done = (
        f"{state.pending:,} events wait, {state.unacknowledged:,} events are unacknowledged, and all events up to number "
        f"{state.ack_floor:,} are done"
    )
    if state.paused:
        yield warning("consumer-paused", label, f"the consumer is paused; {done}", "Run `nats consumer resume`.")
    elif state.pending > 0 and state.waiting == 0 and state.unacknowledged == 0:
        remedy = (
            "Start `mediator run MODULE:NAME`. If it runs, a circuit may have paused it until a dependency answers again: "
            "see `parked-held`."
        )
        yield warning("consumer-idle", label, f"no process consumes; {done}", remedy)
    elif state.pending > lag:
        yield warning("consumer-lag", label, done, "Run more processes, or raise `concurrency`.")


@dataclass(frozen=True, slots=True)
class _Places:
    """The number of places of a group, and the seconds for which a failing event holds a place.

    Without a parking, a failing event holds its place forever, and `seconds` is infinite.
    """

    number: int
    seconds: float

    @property
    def text(self) -> str:
        full = f"{self.number:,} failing events of one type would fill all places of the group (max_ack_pending)"
        if math.isinf(self.seconds):
            return f"without a parking, {full} forever, and no other event would be delivered"
        return f"{full} for up to {self.seconds:,.0f} s, and during this time no other event would be delivered"


def _places_of(installation: Installation, broker: Broker, state: ConsumerState) -> _Places | None:
    """Return the places of an unordered group; `None` for an ordered group, which has a place for each partition."""
    for each in installation.consumers:
        is_same = each.broker is broker.connection and state.stream in each.streams and state.name == each.group
        if is_same and each.ordering == "none":
            return _Places(state.max_ack_pending, each.retries.longest)
    return None


def _shortage(label: str, state: ConsumerState, places: _Places | None) -> Iterator[Finding]:
    if places is None:
        return
    if state.unacknowledged >= _FULL * places.number:
        text = f"{state.unacknowledged:,} of at most {places.number:,} events are unacknowledged; {places.text}"
        remedy = f"Find the type of the failing events in the log (`delivery failed`). {_ADD_PLACES}"
        yield warning("consumer-full", label, text, remedy)
    elif math.isinf(places.seconds):
        yield warning("consumer-places", label, places.text, _ADD_PLACES)


class Retention(Check):
    """Checks that each inbox remembers events for longer than the streams and the archive keep the events."""

    name = "inbox-retention"

    async def run(self, installation: Installation) -> AsyncIterator[Finding]:
        for consumer in installation.consumers:
            fine = ok("inbox-retention", consumer.label, "inboxes remember events longer than streams and archives do")
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
        text = f"the stream {name} keeps events forever, but the inbox forgets them"
        yield warning("inbox-retention", f"{consumer.label} {name}", text, "Set max_age of the stream.")
    needed = needed_retention(stream=max(streams.values(), default=0.0), archive=installation.archive_seconds)
    ages = ", ".join(f"{name}: {age:g} s" for name, age in streams.items()) or "none"
    for inbox in consumer.inboxes:
        kept: float = inbox.value.keep_seconds
        if kept < needed:
            text = (
                f"keep_seconds is {kept:g}, but {needed:g} is needed: a day longer than streams ({ages}) and archives "
                f"({installation.archive_seconds:g} s) keep events. An event that the inbox has forgotten can take "
                "effect twice"
            )
            yield fault("inbox-retention", inbox.label, text, f"Set keep_seconds to {needed:g} or more.")
