"""EventIdentity: under which consumer, source and id an event is remembered, whatever its producer has put there."""

import hashlib
from dataclasses import dataclass

from mediator.distributed.subscription import Delivery

_LONGEST = 255


@dataclass(frozen=True, slots=True)
class EventIdentity:
    """What tells one event from another in the inbox: three texts that fit into its columns and can be printed."""

    consumer: str
    source: str
    event_id: str


def identity_of(consumer: str, delivery: Delivery) -> EventIdentity:
    """The identity of what was delivered. A message that cannot be read is known by its place and content.

    Also when its id can be read. A producer that cannot write events may give several the same id, and each of them has to
    be kept; and one that sends the event again, whole this time, must not be told that it has taken effect.
    """
    event = delivery.event
    if event is not None:
        return EventIdentity(consumer, fitting(event.source), fitting(event.id))
    digest = hashlib.sha256(delivery.data)
    for name, value in sorted(delivery.headers.items()):
        digest.update(f"\n{name}:{value}".encode(errors="surrogatepass"))
    place = fitting(delivery.subject, 150)
    return EventIdentity(consumer, "", f"{place}:{delivery.sequence}:{digest.hexdigest()[:32]}")


def fitting(text: str, longest: int = _LONGEST) -> str:
    """The text itself, or a hash of one that is too long for a column or has characters that cannot be printed."""
    if len(text) <= longest and text.isprintable():
        return text
    return f"sha256:{hashlib.sha256(text.encode(errors='surrogatepass')).hexdigest()}"


def is_storable(text: str, longest: int = _LONGEST) -> bool:
    """Whether a text fits into a column of that length, as it is, in every database."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return len(text) <= longest and "\0" not in text


def shown(text: str, longest: int = _LONGEST) -> str:
    """The text for people: cut, with what cannot be printed escaped."""
    cut = text if len(text) <= longest else f"{text[: longest - 3]}..."
    return "".join(char if char.isprintable() else ascii(char)[1:-1] for char in cut)[:longest]
