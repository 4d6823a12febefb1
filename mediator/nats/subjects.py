"""Subjects: the inboxes in which answers are received, and the foreign subjects to which anything is sent.

The sender of a message chooses its reply subject, and the answer is sent with the rights of the application that
answers: a stranger could write `$JS.API.STREAM.DELETE.x` there and have the application delete the stream. So nothing
is sent to a subject from the wire unless the subject has one of the forms in this module.
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
_ONE_OF_MANY = r"(?:\.[A-Za-z0-9_-]{1,64})?"  # some clients receive the answers to all their requests in one inbox
_LONGEST_SUBJECT = 255
_ACK = re.compile(
    r"\$JS\.ACK\.(?:[^\s.*>]+\.[^\s.*>]+\.)??"  # `<domain>.<account>`, which newer servers add
    r"(?P<stream>[^\s.*>]+)\.(?P<consumer>[^\s.*>]+)"
    r"\.(?P<attempt>\d{1,9})\.(?P<sequence>\d{1,18})\.(?P<number>\d{1,18})\.(?P<stored>\d{1,19})\.(?P<remaining>\d{1,18})"
    r"(?:\.[^\s.*>]+)?",
    re.ASCII,
)


def checked_inbox_prefix(prefix: str) -> str:
    """Return the first tokens of one or several users' inboxes, or raise a `SettingError` when they are not valid."""
    if not _PREFIX.fullmatch(prefix):
        raise SettingError("inbox_prefix", prefix, "use tokens of letters, digits, hyphens and underscores")
    return prefix


def new_inbox(client: Client) -> str:
    """Return an unguessable subject for answers, under the prefix of the connection.

    nats-py numbers its inboxes: anyone who gets one request from a client could derive where it waits for other
    answers.
    """
    prefix = client.new_inbox().rpartition(".")[0]
    return f"{prefix}.{secrets.token_hex(16)}"


def answerable(prefixes: Collection[str] | None) -> Callable[[str], bool]:
    """Return a function that tells whether a subject is the inbox of a requester.

    An inbox is a prefix and an unguessable token. It may end in one more token, like the inboxes of other NATS clients.
    The inboxes in which this library waits for the broker end in two more tokens, and do not match.

    Args:
        prefixes: The prefixes of the requesters' inboxes; `None` allows `_INBOX` and every `_INBOX_<name>`.

    Raises:
        SettingError: A prefix is not one or several tokens.
    """
    given = _USUAL_PREFIX
    if prefixes is not None:
        given = "|".join(re.escape(checked_inbox_prefix(each)) for each in prefixes) or "(?!)"
    inbox = re.compile(rf"(?:{given})\.{_UNIQUE}{_ONE_OF_MANY}")

    def is_answerable(subject: str) -> bool:
        return len(subject) <= _LONGEST_SUBJECT and inbox.fullmatch(subject) is not None

    return is_answerable


@dataclass(frozen=True, slots=True)
class AckAddress:
    """The parts of the subject to which a delivery is acknowledged.

    Attributes:
        stream: The stream.
        consumer: The durable consumer.
        attempt: How often the message has been delivered.
        sequence: The message's sequence in the stream.
        number: The delivery's sequence among the deliveries of the consumer.
        stored: When the message was stored, in nanoseconds since the epoch.
        remaining: How many more messages the consumer has to deliver.
    """

    stream: str
    consumer: str
    attempt: int
    sequence: int
    number: int
    stored: int
    remaining: int


def ack_address(subject: str) -> AckAddress | None:
    """Return the parts of a delivery's reply subject; `None` when the subject is not an acknowledgement address."""
    found = _ACK.fullmatch(subject)
    if found is None:
        return None
    numbers = [int(found[name]) for name in ("attempt", "sequence", "number", "stored", "remaining")]
    return AckAddress(found["stream"], found["consumer"], *numbers)
