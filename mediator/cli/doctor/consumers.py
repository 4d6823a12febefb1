"""Consumers: whether those that are wanted exist, give no event up, and keep pace."""

from collections.abc import AsyncIterator, Iterator

from mediator.cli.doctor.check import Check
from mediator.cli.doctor.finding import Finding, fault, found_or, ok, warning
from mediator.cli.doctor.installation import Broker, Installation
from mediator.nats.inspection import ConsumerState
from mediator.nats.topology import Topology

_APPLY = "Run `mediator topology apply MODULE:NAME`, or start the application, if it may create it."
_ORDERING = "not created: its group"
_TOLD = ("max_deliver is", "ack_wait is", _ORDERING)
"""The differences that have a finding of their own."""


class Consumers(Check):
    """Each wanted consumer, and those of its group that nobody needs."""

    name = "consumers"

    async def run(self, installation: Installation) -> AsyncIterator[Finding]:
        """See `Check.run`."""
        for broker in installation.brokers:
            for finding in [*_missing(broker), *_unneeded(broker)]:
                yield finding
            for state in broker.seen.consumers:
                label = f"{broker.label} {state.stream} {state.name}"
                fine = ok("consumer", label, f"{state.pending:,} events before it, up to {state.ack_floor:,} done")
                for finding in found_or(_faults(label, state, broker, installation.options.lag), fine):
                    yield finding


def _missing(broker: Broker) -> Iterator[Finding]:
    """One finding for a group and stream, which may have many consumers."""
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
        if not others and stream not in broker.seen.missing_streams:  # that is told of the stream
            yield fault("consumer-missing", label, f"does not have: {', '.join(names)}", _APPLY)


def _is_refused(broker: Broker, stream: str, consumer: str) -> bool:
    """Whether its group neither makes nor uses it before the partitions of the stream agree, which is told of the stream."""
    refused = {wanted.name for wanted, _ in broker.with_other_partitions() if wanted.ordered} & {stream}
    ordered = [each for each in broker.wanted.consumers if each.settings.name != each.group]
    of_groups = [each for each in ordered if each.stream in refused]
    return Topology(consumers=tuple(of_groups)).is_of_group(consumer)


def _other_orderings(broker: Broker, stream: str) -> list[str]:
    """That groups consume a stream with the other ordering."""
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


def _details(broker: Broker, stream: str, name: str) -> tuple[str, ...]:
    found = (item.details for item in broker.compared or () if (item.stream, item.consumer) == (stream, name))
    return next(found, ())
