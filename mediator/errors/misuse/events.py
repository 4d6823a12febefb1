"""Misuse of distributed events, and of requests to other applications."""

from mediator.errors.misuse.classes import DeclarationError, GroupOrderingError, MisuseError
from mediator.errors.root import name_of
from mediator.printable import shown_reason


def no_event(message: object) -> MisuseError:
    """Something that is not a distributed event was added to the broker."""
    cls = message if isinstance(message, type) else type(message)  # a text may be a payload
    return MisuseError(
        message,
        f"{name_of(cls)} is not a DistributedEvent and cannot leave the process. Publish a notification "
        "with `await mediator.publish(...)`, or derive the class from DistributedEvent.",
    )


def event_declaration(event_class: type, problem: str) -> DeclarationError:
    """An event class does not say, or wrongly says, what its type is on the wire."""
    return DeclarationError(
        event_class,
        f"{name_of(event_class)} {problem}. Declare it as "
        '`event_type: ClassVar[str] = "<domain>.<name>"`, both of up to 64 lower-case letters, digits and hyphens, and '
        '`event_version: ClassVar[int] = 1`. A `key_locking`, if there is one, is "strict" or "row".',
    )


def upcaster_declaration(event_class: type, problem: str) -> DeclarationError:
    """An event class declares upcasters that cannot lift older versions to its own."""
    return DeclarationError(
        event_class,
        f"{name_of(event_class)} {problem}. Declare a plain function for each older version, without a "
        "gap: `upcasters: ClassVar[Mapping[int, Upcaster]] = {1: from_v1, 2: from_v2}` with `event_version` 3.",
    )


def event_schema(event_class: type, reason: str) -> DeclarationError:
    """The payload of an event class cannot be described, or no sample of it can be made."""
    return DeclarationError(
        event_class,
        f"{name_of(event_class)} cannot be frozen: {shown_reason(reason)}. When only the sample is at fault, give one: "
        "`freeze_events([OrderPlaced(...)], folder)`.",
    )


def request_declaration(request_class: type, problem: str) -> DeclarationError:
    """A request class does not say, or wrongly says, under which name another application knows it."""
    return DeclarationError(
        request_class,
        f"{name_of(request_class)} {problem}. Declare it as `class {name_of(request_class)}"
        '(Query[Response])` with `request_type: ClassVar[str] = "<domain>.<name>"`, both of lower-case letters, digits '
        "and hyphens, and fields and a response that JSON has a form for.",
    )


def delivery_time(event: object, problem: str) -> MisuseError:
    """An event cannot be delayed as asked for; when the command is committing, nothing is committed."""
    return MisuseError(
        event,
        f"{name_of(event)} cannot be delayed: {problem}. Give `deliver_at` a timezone-aware datetime, such as "
        '`datetime.now(UTC) + timedelta(hours=1)`, and use `delivery="outbox"`.',
    )


def group_ordering(group: str, ordering: str, stream: str, consumer: str) -> GroupOrderingError:
    """A group consumed a stream with one ordering, as a consumer shows, and is to consume it with the other one."""
    return GroupOrderingError(
        group,
        f"The group {group} cannot consume {stream} with ordering={ordering!r}: the consumer "
        f"{consumer} shows that it did so with the other ordering, and its progress cannot be taken over. Use "
        f"another group; or stop every instance of this one and delete its consumers on {stream}: it then begins "
        "where `start` says, and the inbox recognizes what it has taken in before.",
    )
