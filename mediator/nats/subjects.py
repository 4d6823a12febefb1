"""Subjects: creates inboxes (the subjects on which answers arrive) and checks the reply subjects of received messages.

The sender of a message chooses the reply subject. The receiver publishes the answer on this subject, with the receiver's
permissions. An answer on `$JS.API.STREAM.DELETE.x` would delete a stream. Therefore this adapter publishes an answer only
when the reply subject has one of the forms in this module.
"""

import re
import secrets
from collections.abc import Callable, Collection
from dataclasses import dataclass

from nats.aio.client import Client

from mediator.errors import SettingError

_PREFIX = re.compile(r"[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)*")
_USUAL_PREFIX = r"_INBOX(?:_[A-Za-z0-9_-]+)?"
_UNIQUE = r"[A-Za-z0-9]{20,64}"
_REQUEST_PART = r"(?:\.[A-Za-z0-9_-]{1,64})?"  # some clients use one inbox, and add a token for each request
_LONGEST_SUBJECT = 255
_ACK = re.compile(
    r"\$JS\.ACK\.(?:[^\s.*>]+\.[^\s.*>]+\.)??"  # newer servers insert `<domain>.<account>`
    r"(?P<stream>[^\s.*>]+)\.(?P<consumer>[^\s.*>]+)"
    r"\.(?P<attempt>\d{1,9})\.(?P<sequence>\d{1,18})\.(?P<number>\d{1,18})\.(?P<stored>\d{1,19})\.(?P<remaining>\d{1,18})"
    r"(?:\.[^\s.*>]+)?",
    re.ASCII,
)


def checked_inbox_prefix(prefix: str) -> str:
    """Return the given prefix of inboxes; raise a `SettingError` unless the prefix consists of valid tokens."""
    if not _PREFIX.fullmatch(prefix):
        raise SettingError("inbox_prefix", prefix, "use tokens of letters, digits, hyphens and underscores")
    return prefix


def new_inbox(client: Client) -> str:
    """Return an unguessable subject for answers, which begins with the `inbox_prefix` of the connection.

    The last token is random. nats-py would number the inboxes: anyone who knows one inbox could guess the next inbox.
    """
    prefix = client.new_inbox().rpartition(".")[0]
    return f"{prefix}.{secrets.token_hex(16)}"


def answerable(prefixes: Collection[str] | None) -> Callable[[str], bool]:
    """Return a function that tells whether a subject is the inbox of a requester.

    An inbox is a prefix and an unguessable token. Some NATS clients add one token. A subject with two added tokens is not
    an inbox of a requester. On such subjects, this library receives the broker's answers. If a reply to a request were
    sent there, this library could take the reply for an answer of the broker.

    If `prefixes` is `None`, the prefixes `_INBOX` and every `_INBOX_<name>` are allowed. A prefix that does not consist
    of valid tokens raises a `SettingError`.
    """
    given = _USUAL_PREFIX
    if prefixes is not None:
        given = "|".join(re.escape(checked_inbox_prefix(each)) for each in prefixes) or "(?!)"
    inbox = re.compile(rf"(?:{given})\.{_UNIQUE}{_REQUEST_PART}")

    def is_answerable(subject: str) -> bool:
        return len(subject) <= _LONGEST_SUBJECT and inbox.fullmatch(subject) is not None

    return is_answerable


@dataclass(frozen=True, slots=True)
class AckAddress:
    """The parts of the subject on which a delivery is acknowledged.

    Attributes:
        attempt: How often the message was delivered, including this delivery.
        sequence: The message's sequence in the stream.
        number: The number of this delivery, counted over all deliveries of the consumer.
        stored: The time at which the message was stored, in nanoseconds since the beginning of 1970 (UTC).
        remaining: The number of messages that the consumer still has to deliver.
    """

    stream: str
    consumer: str
    attempt: int
    sequence: int
    number: int
    stored: int
    remaining: int


def ack_address(subject: str) -> AckAddress | None:
    """Return the parts of a delivery's reply subject; `None` when `subject` is not the reply subject of a delivery."""
    found = _ACK.fullmatch(subject)
    if found is None:
        return None
    numbers = [int(found[name]) for name in ("attempt", "sequence", "number", "stored", "remaining")]
    return AckAddress(found["stream"], found["consumer"], *numbers)
