"""ConsumerSettings: how a durable consumer is created, and how an existing consumer is compared with the settings."""

from collections.abc import Collection
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Literal

from nats.aio.client import Client

from mediator.distributed.inbox import not_of
from mediator.errors import ConsumerNotFoundError, PublisherUnavailableError, SettingError, StreamMismatchError
from mediator.nats.topology.api import NANOSECONDS, ApiError, JetStreamApi
from mediator.settings import LONGEST_OF_BROKER, is_count, is_seconds

MAX_ACK_PENDING = 1000
"""The default of `max_ack_pending` for unordered groups."""

DeliverFrom = Literal["all", "new"] | datetime
"""Where a new consumer starts: at the stream's first event, after the stream's last event, or at a time."""

_UNNAMED = "its metadata does not name the application"
_CONSUMER_EXISTS = (10013, 10148)
APPLICATION = "mediator.application"
"""The metadata entry with the name of the application that owns a consumer.

Applications must not share a consumer: the broker would deliver each event to only one application.
"""
_FIXED = ("ack_policy", "max_deliver")


@dataclass(frozen=True, slots=True)
class ConsumerSettings:
    """A durable pull consumer.

    Attributes:
        name: The name of the consumer in its stream.
        subjects: The subjects that the consumer receives, possibly with wildcards.
        ack_wait: How long the broker waits for an acknowledgement before redelivering a message, in seconds.
        max_ack_pending: The maximum number of messages that are delivered and not yet acknowledged. With 1, messages
            are delivered in order.
        deliver: Where a new consumer starts: `"all"`, `"new"` or a time with a zone.
        application: The application that owns the consumer. With `None`, every owner is accepted.
    """

    name: str
    subjects: Collection[str]
    ack_wait: float = 30.0
    max_ack_pending: int = MAX_ACK_PENDING
    deliver: DeliverFrom = "all"
    application: str | None = None

    def __post_init__(self) -> None:
        if not is_seconds(self.ack_wait, at_most=LONGEST_OF_BROKER):
            raise SettingError("ack_wait", self.ack_wait, "use a positive number of seconds")
        if not is_count(self.max_ack_pending):
            raise SettingError("max_ack_pending", self.max_ack_pending, "use at least 1")
        if isinstance(self.deliver, datetime) and self.deliver.tzinfo is None:
            raise SettingError("deliver", self.deliver, "give the time a zone")


async def ensure_consumer(
    client: Client, stream: str, settings: ConsumerSettings, *, broker: str, provision: bool = True
) -> DeliverFrom:
    """Create a durable consumer, or adapt an existing consumer to the settings.

    Without `provision`, an existing consumer is only checked.

    No subjects are removed from an existing consumer, because another version of the application may still need them.

    Returns:
        Where the consumer started: `"all"`, or a time by the broker's clock.

    Raises:
        StreamMismatchError: The consumer exists, cannot be used, and was not changed.
        StreamNotFoundError: The stream is missing.
        ConsumerNotFoundError: The consumer is missing and may not be created.
        PublisherUnavailableError: The broker did not answer, or could not create the consumer.
    """
    api, wanted = JetStreamApi(client, broker), consumer_config(settings)
    info = await api.consumer(stream, settings.name)
    if info is None and not provision:
        raise ConsumerNotFoundError(broker, "it was not set up", stream, settings.name)
    if info is None:
        info = await create_consumer(api, stream, wanted)
    found = info["config"]
    differences, updates = consumer_differences(wanted, found), consumer_updates(wanted, found)
    if not provision:
        differences += [each for each in updates if each != _UNNAMED]
    if differences:
        texts = [f"consumer {settings.name}: {each}" for each in differences]
        raise StreamMismatchError(broker, "its consumer", stream, texts)
    if updates and provision:
        await update_consumer(api, stream, adapted(wanted, found))
    return _beginning(info)


def _beginning(info: dict[str, Any]) -> DeliverFrom:
    """Return where a consumer started. If the consumer is deleted, a new consumer starts there, too."""
    policy: str = info["config"].get("deliver_policy", "all")
    if policy == "all":
        return "all"
    time: str = info["config"]["opt_start_time"] if policy == "by_start_time" else info["created"]
    return datetime.fromisoformat(time)


def consumer_config(settings: ConsumerSettings) -> dict[str, Any]:
    """Return the configuration of a consumer in the format of the API."""
    config: dict[str, Any] = {
        "name": settings.name,
        "durable_name": settings.name,
        "deliver_policy": settings.deliver,
        "ack_policy": "explicit",
        "replay_policy": "instant",
        "ack_wait": round(settings.ack_wait * NANOSECONDS),
        "max_deliver": -1,
        "max_ack_pending": settings.max_ack_pending,
        "filter_subjects": sorted(settings.subjects),
    }
    if settings.application is not None:
        config["metadata"] = {APPLICATION: settings.application}
    if isinstance(settings.deliver, datetime):
        start = settings.deliver.astimezone(UTC).isoformat().replace("+00:00", "Z")
        config |= {"deliver_policy": "by_start_time", "opt_start_time": start}
    return config


def consumer_differences(wanted: dict[str, Any], found: dict[str, Any]) -> list[str]:
    """Return a text for each difference that makes the consumer unusable, and that no update may remove."""
    differences = [
        f"{name} is {found.get(name)}, not {wanted[name]}" for name in _FIXED if found.get(name) != wanted[name]
    ]
    if found.get("deliver_subject"):
        differences.append("it pushes instead of being pulled")
    theirs, ours = _application(found), _application(wanted)
    if ours is not None and theirs is not None and theirs != ours:
        differences.append(not_of(theirs, ours))
    limits = {found.get("max_ack_pending"), wanted["max_ack_pending"]}
    if len(limits) > 1 and 1 in limits:  # only a limit of 1 keeps the order of events
        differences.append(f"max_ack_pending is {found.get('max_ack_pending')}, not {wanted['max_ack_pending']}")
    return differences


def consumer_updates(wanted: dict[str, Any], found: dict[str, Any]) -> list[str]:
    """Return a text for each difference that an update of the consumer may remove."""
    updates = [
        f"{name} is {_shown(name, found)}, not {_shown(name, wanted)}"
        for name in ("ack_wait", "max_ack_pending")
        if found.get(name) != wanted[name]
    ]
    if _application(wanted) is not None and _application(found) is None:
        updates.append(_UNNAMED)
    there = filters(found)
    if there:
        updates += [f"does not receive {subject}" for subject in sorted(filters(wanted) - there)]
    return updates


def _application(config: dict[str, Any]) -> str | None:
    metadata: dict[str, str] = config.get("metadata") or {}
    return metadata.get(APPLICATION)


def _shown(name: str, config: dict[str, Any]) -> str:
    value = config.get(name)
    return f"{value / NANOSECONDS:g} s" if name == "ack_wait" and value is not None else str(value)


def surplus(wanted: dict[str, Any], found: dict[str, Any]) -> list[str]:
    """Return a text for each subject that a consumer receives although no handler needs the subject."""
    there = filters(found)
    if not there:
        return ["receives every subject of its stream"]
    return [f"receives {subject}, which nothing handles" for subject in sorted(there - filters(wanted))]


def adapted(wanted: dict[str, Any], found: dict[str, Any], *, prune: bool = False) -> dict[str, Any]:
    """Return the existing configuration with the wanted changes. Subjects are removed only with `prune`."""
    there = filters(found)
    kept = filters(wanted) if prune else there | filters(wanted)
    metadata: dict[str, Any] = {**(found.get("metadata") or {}), **(wanted.get("metadata") or {})}
    changed: dict[str, Any] = found | {
        "ack_wait": wanted["ack_wait"],
        "max_ack_pending": wanted["max_ack_pending"],
        "filter_subjects": sorted(kept) if there or prune else [],
        "metadata": metadata,
    }
    changed.pop("filter_subject", None)
    return changed


def filters(config: dict[str, Any]) -> set[str]:
    """Return the subjects that a consumer receives; an empty set means all subjects of the stream."""
    single: Any = config.get("filter_subject")
    return {*(config.get("filter_subjects") or ()), *([single] if single else ())}


async def create_consumer(api: JetStreamApi, stream: str, wanted: dict[str, Any]) -> dict[str, Any]:
    """Create a consumer, unless another process was faster; return the broker's information about the consumer."""
    try:
        return await api.put_consumer(stream, wanted, "create")
    except ApiError as error:
        if error.err_code not in _CONSUMER_EXISTS:
            raise _failure(api, stream, error) from error
        found = await api.consumer(stream, wanted["name"])
        if found is None:  # the consumer has just been deleted again
            raise _failure(api, stream, error) from error
        return found


async def update_consumer(api: JetStreamApi, stream: str, config: dict[str, Any]) -> None:
    """Change the configuration of a consumer."""
    try:
        await api.put_consumer(stream, config, "update")
    except ApiError as error:
        raise _failure(api, stream, error) from error


def _failure(api: JetStreamApi, stream: str, error: ApiError) -> PublisherUnavailableError:
    return PublisherUnavailableError(api.broker, f"the consumer on {stream} cannot be set up: {error}")
