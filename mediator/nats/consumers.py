"""ConsumerSettings: how a durable consumer of a stream is created, and how an existing one differs from that."""

from collections.abc import Collection
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Literal

from nats.aio.client import Client

from mediator.errors import ConsumerNotFoundError, PublisherUnavailableError, SettingError, StreamMismatchError
from mediator.nats.api import NANOSECONDS, ApiError, JetStreamApi

DeliverFrom = Literal["all", "new"] | datetime
"""Where a consumer begins that is new: at the first event that the stream still has, after the last, or at a time."""

_CONSUMER_EXISTS = (10013, 10148)
_FIXED = ("ack_policy", "max_deliver")


@dataclass(frozen=True, slots=True)
class ConsumerSettings:
    """A durable consumer that is pulled from.

    Attributes:
        name: Its name in the stream.
        subjects: The subjects that it receives, possibly with wildcards.
        ack_wait: How long the broker waits for an acknowledgement before it delivers again, in seconds.
        max_ack_pending: How many messages may be out without an acknowledgement; with 1 they come in order.
        deliver: Where it begins, `"all"`, `"new"` or a time with a zone; matters only when it is created.
    """

    name: str
    subjects: Collection[str]
    ack_wait: float = 30.0
    max_ack_pending: int = 1000
    deliver: DeliverFrom = "all"

    def __post_init__(self) -> None:
        if self.ack_wait <= 0:
            raise SettingError("ack_wait", self.ack_wait, "use a positive number of seconds")
        if self.max_ack_pending < 1:
            raise SettingError("max_ack_pending", self.max_ack_pending, "use at least 1")
        if isinstance(self.deliver, datetime) and self.deliver.tzinfo is None:
            raise SettingError("deliver", self.deliver, "give the time a zone")


async def ensure_consumer(
    client: Client, stream: str, settings: ConsumerSettings, *, broker: str, provision: bool = True
) -> None:
    """Make sure that a durable consumer exists, fits and receives its subjects; without `provision`, only look.

    Subjects are only ever added to an existing consumer: while two versions of an application run side by side, the one
    that knows fewer event types must not take events away from the other.

    Raises:
        StreamMismatchError: It exists and cannot be used. It was not changed.
        StreamNotFoundError: The stream is missing.
        ConsumerNotFoundError: It is missing, and is not to be created.
        PublisherUnavailableError: The broker did not answer, or could not create it.
    """
    api, wanted = JetStreamApi(client, broker), consumer_config(settings)
    info = await api.consumer(stream, settings.name)
    if info is None and not provision:
        raise ConsumerNotFoundError(broker, "it was not set up", stream, settings.name)
    if info is None:
        info = await create_consumer(api, stream, wanted)
    if info is None:
        return
    found = info["config"]
    differences, updates = consumer_differences(wanted, found), consumer_updates(wanted, found)
    if not provision:
        differences += updates
    if differences:
        texts = [f"consumer {settings.name}: {each}" for each in differences]
        raise StreamMismatchError(broker, "its consumer", stream, texts)
    if updates:
        await update_consumer(api, stream, adapted(wanted, found))


def consumer_config(settings: ConsumerSettings) -> dict[str, Any]:
    """The configuration of a consumer, as the API takes it."""
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
    if isinstance(settings.deliver, datetime):
        start = settings.deliver.astimezone(UTC).isoformat().replace("+00:00", "Z")
        config |= {"deliver_policy": "by_start_time", "opt_start_time": start}
    return config


def consumer_differences(wanted: dict[str, Any], found: dict[str, Any]) -> list[str]:
    """Every difference that cannot be mended while the consumer is in use, each as a text."""
    differences = [
        f"{name} is {found.get(name)}, not {wanted[name]}" for name in _FIXED if found.get(name) != wanted[name]
    ]
    if found.get("deliver_subject"):
        differences.append("it pushes instead of being pulled")
    limits = {found.get("max_ack_pending"), wanted["max_ack_pending"]}
    if len(limits) > 1 and 1 in limits:  # it says whether events come in order
        differences.append(f"max_ack_pending is {found.get('max_ack_pending')}, not {wanted['max_ack_pending']}")
    return differences


def consumer_updates(wanted: dict[str, Any], found: dict[str, Any]) -> list[str]:
    """What may be changed at any time and is to be, each as a text: waiting times, limits, subjects that are added."""
    updates = [
        f"{name} is {_shown(name, found)}, not {_shown(name, wanted)}"
        for name in ("ack_wait", "max_ack_pending")
        if found.get(name) != wanted[name]
    ]
    there = filters(found)
    if there:
        updates += [f"does not receive {subject}" for subject in sorted(filters(wanted) - there)]
    return updates


def _shown(name: str, config: dict[str, Any]) -> str:
    value = config.get(name)
    return f"{value / NANOSECONDS:g} s" if name == "ack_wait" and value is not None else str(value)


def surplus(wanted: dict[str, Any], found: dict[str, Any]) -> list[str]:
    """The subjects that a consumer receives and need not, each as a text."""
    there = filters(found)
    if not there:
        return ["receives every subject of its stream"]
    return [f"receives {subject}, which nothing handles" for subject in sorted(there - filters(wanted))]


def adapted(wanted: dict[str, Any], found: dict[str, Any], *, prune: bool = False) -> dict[str, Any]:
    """An existing configuration with what may be changed as it is wanted; a subject is taken away only to `prune`."""
    there = filters(found)
    kept = filters(wanted) if prune else there | filters(wanted)
    changed = found | {
        "ack_wait": wanted["ack_wait"],
        "max_ack_pending": wanted["max_ack_pending"],
        "filter_subjects": sorted(kept) if there or prune else [],
    }
    changed.pop("filter_subject", None)
    return changed


def filters(config: dict[str, Any]) -> set[str]:
    """The subjects that a consumer receives; none at all means every one."""
    single: Any = config.get("filter_subject")
    return {*(config.get("filter_subjects") or ()), *([single] if single else ())}


async def create_consumer(api: JetStreamApi, stream: str, wanted: dict[str, Any]) -> dict[str, Any] | None:
    """Create a consumer; what the broker knows of it when another process was faster.

    Raises:
        StreamNotFoundError: The stream is missing.
        PublisherUnavailableError: The broker did not answer, or could not create it.
    """
    try:
        await api.put_consumer(stream, wanted, "create")
    except ApiError as error:
        if error.err_code not in _CONSUMER_EXISTS:
            raise _failure(api, stream, error) from error
        return await api.consumer(stream, wanted["name"])
    return None


async def update_consumer(api: JetStreamApi, stream: str, config: dict[str, Any]) -> None:
    """Change a consumer.

    Raises:
        StreamNotFoundError: The stream is missing.
        PublisherUnavailableError: The broker did not answer, or refuses the change.
    """
    try:
        await api.put_consumer(stream, config, "update")
    except ApiError as error:
        raise _failure(api, stream, error) from error


def _failure(api: JetStreamApi, stream: str, error: ApiError) -> PublisherUnavailableError:
    return PublisherUnavailableError(api.broker, f"the consumer on {stream} cannot be set up: {error}")
