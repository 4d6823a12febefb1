"""StreamSettings: how the stream of a domain is created, and how an existing stream is compared with the settings."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from nats.aio.client import Client

from mediator.distributed.cloudevents import BUCKETS
from mediator.errors import PublisherUnavailableError, SettingError, StreamMismatchError, StreamNotFoundError
from mediator.nats.binding import stream_name
from mediator.nats.topology.api import NANOSECONDS, ApiError, JetStreamApi
from mediator.settings import LONGEST_OF_BROKER, check_counts, is_count, is_seconds

PARTITIONS = "mediator.partitions"
"""The metadata entry with the number of partitions of a stream."""

_ATOMIC_LEVEL = 2
_ATOMIC_VERSION = (2, 12)
_STREAM_EXISTS = 10058
_FIXED = ("subjects", "retention", "storage", "discard")
_CHANGEABLE = ("duplicate_window", "max_age", "max_bytes", "num_replicas", "allow_atomic")
_COMPARED = (*_FIXED, "duplicate_window", "max_age")


@dataclass(frozen=True, slots=True)
class StreamSettings:
    """How a stream is created. Publishing compares an existing stream with the settings, and never changes the stream.

    Attributes:
        max_age: How long events stay in the stream, in seconds. A subscriber that is down for longer misses events.
        duplicate_window: How long the broker recognizes an id as a duplicate, in seconds. Each id needs about 240 bytes
            of the broker's memory.
        max_bytes: The maximum size of the stream, in bytes. The broker reserves this size, and the sizes of all streams
            together must fit into the broker's `max_file`. A full stream keeps old events and refuses new events. Refused
            events wait in the outbox.
        replicas: The number of servers in a cluster that store the events.
        partitions: The number of partitions into which each event type is divided (1 to 64). Within a partition, events
            are in order. The number cannot be changed later.
        storage: `"file"`, or `"memory"` for tests.
        atomic_batches: Whether the stream accepts batches (nats-server 2.12). The broker stores all events of a batch or
            none. With `sync_interval: always`, batches are much faster than single messages. Batches have a risk: the
            server answers a sender on any reply subject, even where the sender may not publish. With the reply subject
            `$JS.API.STREAM.DELETE.<name>`, anyone who may publish to this stream can delete the named stream.
    """

    max_age: float = 7 * 24 * 3600.0
    duplicate_window: float = 600.0
    max_bytes: int = 1024**3
    replicas: int = 1
    partitions: int = 16
    storage: Literal["file", "memory"] = "file"
    atomic_batches: bool = False

    def __post_init__(self) -> None:
        check_counts(max_bytes=self.max_bytes, replicas=self.replicas)
        if not is_count(self.partitions) or self.partitions > BUCKETS:
            raise SettingError("partitions", self.partitions, f"use 1 to {BUCKETS}")
        if not is_seconds(self.max_age, at_most=LONGEST_OF_BROKER):
            raise SettingError("max_age", self.max_age, "use a positive number of seconds")
        if not is_seconds(self.duplicate_window, at_most=self.max_age):
            raise SettingError("duplicate_window", self.duplicate_window, "use at most max_age, and more than 0 s")


DEFAULT_SETTINGS = StreamSettings()


async def ensure_stream(
    client: Client, prefix: str, domain: str, settings: StreamSettings, *, provision: bool, broker: str
) -> dict[str, Any]:
    """Return the configuration of a domain's stream; create a missing stream when `provision` is set.

    Raises:
        StreamNotFoundError: The stream is missing and may not be created.
        StreamMismatchError: The stream exists with other settings, and was not changed.
        PublisherUnavailableError: The broker did not answer, or could not create the stream.
    """
    api, stream = JetStreamApi(client, broker), stream_name(prefix, domain)
    wanted = stream_config(prefix, domain, settings)
    info = await api.stream(stream)
    if info is None and not provision:
        raise StreamNotFoundError(broker, "it was not set up", stream)
    if info is None:
        info = await create_stream(api, wanted)
    differences = stream_differences(wanted, info["config"], _COMPARED)
    if differences:
        raise StreamMismatchError(broker, "it exists with other settings", stream, differences)
    config: dict[str, Any] = info["config"]
    return config


def stream_config(prefix: str, domain: str, settings: StreamSettings) -> dict[str, Any]:
    """Return the configuration of a domain's stream in the format of the API."""
    return {
        "name": stream_name(prefix, domain),
        "subjects": [f"{prefix}.{domain}.>"],
        "retention": "limits",
        "storage": settings.storage,
        "discard": "new",
        "max_age": round(settings.max_age * NANOSECONDS),
        "duplicate_window": round(settings.duplicate_window * NANOSECONDS),
        "max_bytes": settings.max_bytes,
        "max_msgs": -1,
        "max_msg_size": -1,
        "max_consumers": -1,
        "num_replicas": settings.replicas,
        "allow_direct": True,
        "allow_atomic": settings.atomic_batches,
        "metadata": {PARTITIONS: str(settings.partitions)},
    }


def stream_differences(wanted: dict[str, Any], found: dict[str, Any], names: Sequence[str] = _FIXED) -> list[str]:
    """Return a text for each difference in the settings called `names` and in the number of partitions.

    By default, `names` contains the settings that an update cannot change.
    """
    return [
        *(_difference(name, wanted, found) for name in names if found.get(name) != wanted[name]),
        *partition_differences(wanted, found),
    ]


def partition_differences(wanted: dict[str, Any], found: dict[str, Any]) -> list[str]:
    """Return a list with one text if the numbers of partitions differ; otherwise an empty list."""
    metadata: dict[str, str] = found.get("metadata") or {}
    partitions, needed = metadata.get(PARTITIONS), wanted["metadata"][PARTITIONS]
    if partitions is None:
        return [f"{PARTITIONS} is missing in the stream's metadata, and must be {needed}"]
    return [] if partitions == needed else [f"{PARTITIONS} in the stream's metadata is {partitions}, not {needed}"]


def changeable_differences(wanted: dict[str, Any], found: dict[str, Any]) -> list[str]:
    """Return a text for each difference that an update can remove."""
    return [_difference(name, wanted, found) for name in _CHANGEABLE if _found(name, found) != wanted[name]]


def changed_stream(wanted: dict[str, Any], found: dict[str, Any]) -> dict[str, Any]:
    """Return the existing configuration with all wanted changes that an update can make."""
    return found | {name: wanted[name] for name in _CHANGEABLE if _found(name, found) != wanted[name]}


def _found(name: str, config: dict[str, Any]) -> Any:
    """Return a setting of an existing stream. Older servers do not report `allow_atomic`; a missing value means false."""
    return config.get(name, False if name == "allow_atomic" else None)


def _difference(name: str, wanted: dict[str, Any], found: dict[str, Any]) -> str:
    return f"{name} is {_shown(name, _found(name, found))}, not {_shown(name, wanted[name])}"


def _shown(name: str, value: Any) -> str:
    return f"{value / NANOSECONDS:g} s" if name in {"duplicate_window", "max_age"} and value is not None else str(value)


async def create_stream(api: JetStreamApi, wanted: dict[str, Any]) -> dict[str, Any]:
    """Create a stream, unless another process was faster; return the broker's information about the stream."""
    stream = wanted["name"]
    try:
        if not (wanted["allow_atomic"] and await _stores_batches(api)):  # older servers refuse this setting
            wanted = {name: value for name, value in wanted.items() if name != "allow_atomic"}
        return await api.call(f"STREAM.CREATE.{stream}", wanted)
    except ApiError as error:
        if error.err_code != _STREAM_EXISTS:
            raise PublisherUnavailableError(api.broker, f"the stream {stream} cannot be created: {error}") from error
    found = await api.stream(stream)
    if found is None:
        raise PublisherUnavailableError(api.broker, f"the stream {stream} was deleted just after it was created")
    return found


async def _stores_batches(api: JetStreamApi) -> bool:
    try:
        account = await api.call("INFO")
    except PublisherUnavailableError:  # the user may lack the permission for this request
        version = api.client.connected_server_version
        return (version.major, version.minor) >= _ATOMIC_VERSION
    level: int = account.get("api", {}).get("level", 0)
    return level >= _ATOMIC_LEVEL


async def update_stream(api: JetStreamApi, config: dict[str, Any]) -> None:
    """Change the configuration of a stream."""
    try:
        await api.call(f"STREAM.UPDATE.{config['name']}", config)
    except ApiError as error:
        text = f"the stream {config['name']} cannot be changed: {error}"
        raise PublisherUnavailableError(api.broker, text) from error
