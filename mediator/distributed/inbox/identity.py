"""EventIdentity: the consumer, source and id that identify an event in the inbox; and the event's parked form."""

import hashlib
from dataclasses import dataclass

from mediator.distributed.inbox.subscription import Delivery
from mediator.distributed.parking import ParkedEvent, ParkReason, error_text
from mediator.distributed.storable import LARGEST_NUMBER, LONGEST_MEDIA_TYPE, text_or_hash, time_text
from mediator.printable import shown


@dataclass(frozen=True, slots=True)
class EventIdentity:
    """Identifies an event by three printable texts that fit into the columns of the inbox.

    Attributes:
        source: The source of the event; empty when the message cannot be read.
        event_id: The id of the event, or a substitute id.
        former_id: The substitute id that an unreadable message, or an event without an id, had before version 2 of the
            tables; `None` for an event with an id.
    """

    consumer: str
    source: str
    event_id: str
    former_id: str | None = None


def identity_of(consumer: str, delivery: Delivery) -> EventIdentity:
    """Return the identity of a delivery. An unreadable message is identified by subject, sequence, time and content.

    The id of an unreadable message is not used, even when the id itself can be read. A faulty producer may give several
    messages the same id, and each message has to be kept. A later readable event with this id must not be taken for a
    duplicate. The time is used because a stream that is deleted and created again numbers its messages from 1 again.
    """
    event = delivery.event
    if event is not None:
        former = delivery.former_id
        known = None if former is None else text_or_hash(former)
        return EventIdentity(consumer, text_or_hash(event.source), text_or_hash(event.id), known)
    digest = hashlib.sha256(delivery.data)
    for name, value in sorted(delivery.headers.items()):
        digest.update(f"\n{name}:{value}".encode(errors="surrogatepass"))
    place = f"{text_or_hash(delivery.subject, 150)}:{delivery.sequence}"
    former_id = f"{place}:{digest.hexdigest()[:32]}"
    digest.update(f"\n{time_text(delivery.stored_at)}".encode())
    return EventIdentity(consumer, "", f"{place}:{digest.hexdigest()[:32]}", former_id)


def parked_delivery(
    consumer: str, delivery: Delivery, reason: ParkReason, error: BaseException | str, *, attempts: int, ordered: bool
) -> ParkedEvent:
    """Return the parked form of a delivery. `ordered` says whether later events of its key have to wait for it."""
    identity, event = identity_of(consumer, delivery), delivery.event
    return ParkedEvent(
        direction="in",
        consumer=consumer,
        source=identity.source,
        event_id=identity.event_id,
        type=shown((event or delivery.unreadable).type),
        time=time_text(delivery.stored_at if event is None else event.time),
        partition_key=key_of(delivery),
        content_type="" if event is None else shown(event.datacontenttype, LONGEST_MEDIA_TYPE),
        extensions={} if event is None else dict(event.extensions),
        data=delivery.data,
        subject=shown(delivery.subject, 1024),
        headers=dict(delivery.headers),
        sequence=min(delivery.sequence, LARGEST_NUMBER),
        reason=reason,
        error=error_text(error),
        attempts=attempts,
        ordered=ordered,
    )


def key_of(delivery: Delivery) -> str | None:
    """Return the partition key of a delivery, or the hash of the key if the key does not fit into a column."""
    key = (delivery.event or delivery.unreadable).partitionkey
    return None if key is None else text_or_hash(key)
