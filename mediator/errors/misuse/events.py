"""Functions that return the errors for misuse of distributed events and of requests to other applications."""

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
    """An event class declares no type, version or locking for the wire, or declares a wrong one."""
    return DeclarationError(
        event_class,
        f"{name_of(event_class)} {problem}. Declare it as "
        '`event_type: ClassVar[str] = "<domain>.<name>"`, both of up to 64 lower-case letters, digits and hyphens, and '
        '`event_version: ClassVar[int] = 1`. `key_locking` is optional: "strict" or "row".',
    )


def upcaster_declaration(event_class: type, problem: str) -> DeclarationError:
    """An event class declares upcasters that cannot convert older versions to its own version."""
    return DeclarationError(
        event_class,
        f"{name_of(event_class)} {problem}. Declare a plain function for each older version, without a "
        "gap: `upcasters: ClassVar[Mapping[int, Upcaster]] = {1: from_v1, 2: from_v2}` with `event_version` 3.",
    )


def event_schema(event_class: type, reason: str) -> DeclarationError:
    """The payload of an event class has no schema, or no sample of it can be generated."""
    return DeclarationError(
        event_class,
        f"{name_of(event_class)} cannot be frozen: {shown_reason(reason)}. If only the generated sample is at fault, "
        "give one: `freeze_events([OrderPlaced(...)], folder)`.",
    )


def request_declaration(request_class: type, problem: str) -> DeclarationError:
    """A request class declares no name by which other applications know it, or declares a wrong one."""
    return DeclarationError(
        request_class,
        f"{name_of(request_class)} {problem}. Declare it as `class {name_of(request_class)}"
        '(Query[Response])` with `request_type: ClassVar[str] = "<domain>.<name>"`, both of lower-case letters, digits '
        "and hyphens, and fields and a response that JSON can represent.",
    )


def delivery_time(event: object, problem: str) -> MisuseError:
    """An event cannot be delayed as requested. If the error is raised during the commit, nothing is committed."""
    return MisuseError(
        event,
        f"{name_of(event)} cannot be delayed: {problem}. Give `deliver_at` a timezone-aware datetime, such as "
        '`datetime.now(UTC) + timedelta(hours=1)`, and use `delivery="outbox"`.',
    )


def group_ordering(group: str, ordering: str, stream: str, consumer: str) -> GroupOrderingError:
    """A consumer group used another ordering before, as an existing consumer shows."""
    return GroupOrderingError(
        group,
        f"The group {group} cannot consume {stream} with ordering={ordering!r}: the consumer "
        f"{consumer} shows that the group used the other ordering before, and its position cannot be converted. Use "
        f"another group; or stop every instance of this group and delete its consumers on {stream}. The group then starts "
        "where `start` says, and the inbox recognizes the events that the group has handled before.",
    )
