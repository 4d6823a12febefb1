"""CloudEvent: the envelope in which an event is stored and sent.

The attributes are the context attributes of CloudEvents 1.0 (https://github.com/cloudevents/spec, "Context
Attributes"). Correlation, causation, tenant and trace context are extension attributes. Names of extension attributes
have only lower-case letters and digits.
"""

import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime

from mediator.context import NOTHING_SAID, MessageContext, Unverified, new_id, problem_of

CORRELATION = "correlationid"
CAUSATION = "causationid"
TENANT = "tenant"
LONGEST_APPLICATION = 128
"""Longest name of an application, in characters."""
BUCKETS = 64
"""The number of hash buckets of partition keys. The number never changes: partitions are derived from buckets."""


@dataclass(frozen=True, slots=True)
class CloudEvent:
    """An event as it is stored in the outbox and sent to the broker.

    Attributes:
        id: Unique within `source`; the same on every resend.
        type: `<domain>.<name>.v<version>`.
        time: The time at which the event was raised, timezone-aware.
        data: The encoded payload, in bytes.
        source: The name of the application that raised the event; empty until the name is known.
        datacontenttype: The media type of `data`.
        partitionkey: The key whose events are kept in order; `None` for an event without order. The key is never an
            empty text.
        extensions: Further attributes; their names have only lower-case letters and digits.
    """

    id: str
    type: str
    time: datetime
    data: bytes
    source: str = ""
    datacontenttype: str = "application/json"
    partitionkey: str | None = None
    extensions: Mapping[str, str] = field(default_factory=dict[str, str])

    @property
    def bucket(self) -> int:
        """The bucket (0 to 63) of the partition key, or of the id when there is no key."""
        return bucket_of(self.partitionkey, self.id)


def bucket_of(partitionkey: str | None, event_id: str) -> int:
    """Return the bucket of a partition key, or of the event id when there is no key."""
    return zlib.crc32((event_id if partitionkey is None else partitionkey).encode()) % BUCKETS


def outgoing(context: MessageContext) -> dict[str, str]:
    """Return the extension attributes of an event that is raised in the given message context."""
    extensions = {CORRELATION: context.correlation_id, CAUSATION: context.message_id}
    if context.tenant is not None:
        extensions[TENANT] = context.tenant
    return extensions


def incoming(event: CloudEvent) -> tuple[MessageContext, list[str]]:
    """Return an unverified message context for an event, and the names of the dropped attributes.

    An attribute is dropped when it is empty, too long, or has unprintable characters.
    """
    dropped = [name for name in (CORRELATION, CAUSATION, TENANT) if _unfit(event.extensions.get(name, "?"))]
    known = {name: value for name, value in event.extensions.items() if name not in dropped}
    message_id = event.id
    if _unfit(message_id):
        message_id = new_id()
        dropped.insert(0, "id")
    context = MessageContext(
        message_id,
        known.get(CORRELATION, message_id),
        known.get(CAUSATION),
        vouched_by=None,
        unverified=Unverified(known.get(TENANT)) if TENANT in known else NOTHING_SAID,
    )
    return context, dropped


def _unfit(value: str) -> bool:
    return not value or bool(problem_of(value))
