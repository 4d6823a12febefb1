"""CloudEvent: the envelope in which an event is stored and leaves the process.

The attributes are those of CloudEvents 1.0 (https://github.com/cloudevents/spec, "Context Attributes"); correlation,
causation, tenant and trace context travel as extension attributes, whose names are lower-case letters and digits by
that spec.
"""

import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime

CORRELATION = "correlationid"
CAUSATION = "causationid"
TENANT = "tenant"
BUCKETS = 64
"""The number of hash buckets of keys. Fixed for ever: partitions are derived from it."""


@dataclass(frozen=True, slots=True)
class CloudEvent:
    """One event as it is stored and sent.

    Attributes:
        id: Unique within `source`; the same on every resend.
        type: `<context>.<name>.v<version>`.
        time: When the event was added, timezone-aware.
        data: The encoded payload, in bytes.
        source: The application that raised it; empty until a publisher stamps it.
        datacontenttype: The media type of `data`.
        partitionkey: Order is kept among the events of one key; `None` for an event without order.
        extensions: Further attributes, names lower-case letters and digits.
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
    """The bucket of a partition key, or of an id when there is no key."""
    return zlib.crc32((partitionkey or event_id).encode()) % BUCKETS
