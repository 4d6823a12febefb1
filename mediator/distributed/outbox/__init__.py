"""The sending side after the commit: the stored events, the relay, and the port to the broker."""

from mediator.distributed.outbox.contents import OutboxContents, OutboxCount, OutboxFilter, OutboxRecord, Place
from mediator.distributed.outbox.port import ARCHIVE_SECONDS, Doorbell, Erased, Outbox, OutboxBatch, check_partition_key
from mediator.distributed.outbox.publisher import (
    EventPublisher,
    HeldStream,
    PublishResult,
    StreamContents,
    check_source,
)
from mediator.distributed.outbox.relay import OutboxRelay
from mediator.distributed.outbox.republishing import Republishing
from mediator.distributed.outbox.verification import Absent, Verification

__all__ = [
    "ARCHIVE_SECONDS",
    "Absent",
    "Doorbell",
    "Erased",
    "EventPublisher",
    "HeldStream",
    "Outbox",
    "OutboxBatch",
    "OutboxContents",
    "OutboxCount",
    "OutboxFilter",
    "OutboxRecord",
    "OutboxRelay",
    "Place",
    "PublishResult",
    "Republishing",
    "StreamContents",
    "Verification",
    "check_partition_key",
    "check_source",
]
