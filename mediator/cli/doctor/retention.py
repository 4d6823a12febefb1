"""Retention: whether inboxes remember events for longer than they can come again."""

from collections.abc import AsyncIterator, Iterator

from mediator.cli.doctor.check import Check
from mediator.cli.doctor.finding import Finding, fault, found_or, ok, warning
from mediator.cli.doctor.installation import Consumer, Installation
from mediator.distributed.inbox import needed_retention


class Retention(Check):
    """The inbox of each consumer, beside the streams as they are and the archive."""

    name = "inbox-retention"

    async def run(self, installation: Installation) -> AsyncIterator[Finding]:
        """See `Check.run`."""
        for consumer in installation.consumers:
            fine = ok("inbox-retention", consumer.label, "events are remembered for longer than they can come again")
            if consumer.inboxes:
                for finding in found_or(_faults(consumer, installation), fine):
                    yield finding


def _faults(consumer: Consumer, installation: Installation) -> Iterator[Finding]:
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
