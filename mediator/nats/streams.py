"""StreamSettings: how the stream of a context is created, and how an existing one differs from that."""

from dataclasses import dataclass
from typing import Any, Literal

from nats.aio.client import Client

from mediator.distributed.cloudevents import BUCKETS
from mediator.errors import PublisherUnavailableError, SettingError, StreamMismatchError, StreamNotFoundError
from mediator.nats.api import NANOSECONDS, ApiError, JetStreamApi
from mediator.nats.binding import stream_name

PARTITIONS = "mediator.partitions"
"""The entry of a stream's metadata that says into how many partitions its subjects are divided."""

_ATOMIC_LEVEL = 2
_ATOMIC_VERSION = (2, 12)
_STREAM_EXISTS = 10058
_FIXED = ("subjects", "retention", "storage", "discard")
_CHANGEABLE = ("duplicate_window", "max_age", "max_bytes", "num_replicas")
_COMPARED = (*_FIXED, "duplicate_window", "max_age")


@dataclass(frozen=True, slots=True)
class StreamSettings:
    """How a stream is created. An existing stream is compared with it and never changed.

    Attributes:
        max_age: How long events stay, in seconds. A subscriber that is down for longer misses some.
        duplicate_window: How long the broker knows an id again, in seconds; costs it about 240 bytes of memory an id.
        max_bytes: How large the stream may get, in bytes. The broker reserves it: the sum over all streams must fit its
            `max_file`. A full stream refuses events, which wait in the outbox; it never drops old ones for new ones.
        replicas: On how many servers of a cluster events are stored.
        partitions: Into how many ordered parts each event type is divided (1 to 64). Cannot be changed later.
        storage: `"file"`, or `"memory"` for tests.
    """

    max_age: float = 7 * 24 * 3600.0
    duplicate_window: float = 600.0
    max_bytes: int = 1024**3
    replicas: int = 1
    partitions: int = 16
    storage: Literal["file", "memory"] = "file"

    def __post_init__(self) -> None:
        if not 1 <= self.partitions <= BUCKETS:
            raise SettingError("partitions", self.partitions, f"use 1 to {BUCKETS}")
        if self.max_age <= 0:
            raise SettingError("max_age", self.max_age, "use a positive number of seconds")
        if not 0 < self.duplicate_window <= self.max_age:
            raise SettingError("duplicate_window", self.duplicate_window, "use at most max_age, and more than 0 s")


DEFAULT_SETTINGS = StreamSettings()


async def ensure_stream(
    client: Client, prefix: str, context: str, settings: StreamSettings, *, provision: bool, broker: str
) -> dict[str, Any]:
    """The configuration of a context's stream, which exists and fits; created when missing and `provision` is set.

    Raises:
        StreamNotFoundError: It is missing, and is not to be created.
        StreamMismatchError: It exists and differs in what matters. It was not changed.
        PublisherUnavailableError: The broker did not answer, or could not create it.
    """
    api, stream = JetStreamApi(client, broker), stream_name(prefix, context)
    wanted = stream_config(prefix, context, settings)
    info = await api.stream(stream)
    if info is None and not provision:
        raise StreamNotFoundError(broker, "it was not set up", stream)
    if info is None:
        info = await create_stream(api, wanted)
    differences = stream_differences(wanted, info["config"])
    if differences:
        raise StreamMismatchError(broker, "it exists with other settings", stream, differences)
    config: dict[str, Any] = info["config"]
    return config


def stream_config(prefix: str, context: str, settings: StreamSettings) -> dict[str, Any]:
    """The configuration of the stream of a context, as the API takes it."""
    return {
        "name": stream_name(prefix, context),
        "subjects": [f"{prefix}.{context}.>"],
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
        "metadata": {PARTITIONS: str(settings.partitions)},
    }


def stream_differences(wanted: dict[str, Any], found: dict[str, Any]) -> list[str]:
    """Every difference that matters to who publishes, each as a text."""
    return [
        *(_difference(name, wanted, found) for name in _COMPARED if found.get(name) != wanted[name]),
        *partition_differences(wanted, found),
    ]


def partition_differences(wanted: dict[str, Any], found: dict[str, Any]) -> list[str]:
    """How the numbers of partitions differ, which must never change: the order of what is stored depends on it."""
    metadata: dict[str, str] = found.get("metadata") or {}
    partitions, needed = metadata.get(PARTITIONS), wanted["metadata"][PARTITIONS]
    return [] if partitions == needed else [f"{PARTITIONS} in its metadata is {partitions}, not {needed}"]


def fixed_differences(wanted: dict[str, Any], found: dict[str, Any]) -> list[str]:
    """Every difference that no update may remove, each as a text."""
    return [
        *(_difference(name, wanted, found) for name in _FIXED if found.get(name) != wanted[name]),
        *partition_differences(wanted, found),
    ]


def changeable_differences(wanted: dict[str, Any], found: dict[str, Any]) -> list[str]:
    """Every difference that an update can remove, each as a text."""
    return [_difference(name, wanted, found) for name in _CHANGEABLE if found.get(name) != wanted[name]]


def changed_stream(wanted: dict[str, Any], found: dict[str, Any]) -> dict[str, Any]:
    """An existing configuration, with all that an update can change as it is wanted."""
    return found | {name: wanted[name] for name in _CHANGEABLE}


def _difference(name: str, wanted: dict[str, Any], found: dict[str, Any]) -> str:
    return f"{name} is {_shown(name, found.get(name))}, not {_shown(name, wanted[name])}"


def _shown(name: str, value: Any) -> str:
    return f"{value / NANOSECONDS:g} s" if name in {"duplicate_window", "max_age"} and value is not None else str(value)


async def create_stream(api: JetStreamApi, wanted: dict[str, Any]) -> dict[str, Any]:
    """Create a stream, unless another process did so in the meantime; what the broker knows of it.

    Raises:
        PublisherUnavailableError: The broker did not answer, or could not create it.
    """
    stream = wanted["name"]
    try:
        if await _stores_batches(api):
            wanted = wanted | {"allow_atomic": True}
        return await api.call(f"STREAM.CREATE.{stream}", wanted)
    except ApiError as error:
        if error.err_code != _STREAM_EXISTS:
            raise PublisherUnavailableError(api.broker, f"the stream {stream} cannot be created: {error}") from error
    found = await api.stream(stream)
    if found is None:
        raise PublisherUnavailableError(api.broker, f"the stream {stream} comes and goes")
    return found


async def _stores_batches(api: JetStreamApi) -> bool:
    try:
        account = await api.call("INFO")
    except PublisherUnavailableError:  # not every user may ask; the server refuses what it does not know
        version = api.client.connected_server_version
        return (version.major, version.minor) >= _ATOMIC_VERSION
    level: int = account.get("api", {}).get("level", 0)
    return level >= _ATOMIC_LEVEL


async def update_stream(api: JetStreamApi, config: dict[str, Any]) -> None:
    """Change a stream.

    Raises:
        PublisherUnavailableError: The broker did not answer, or refuses the change.
    """
    try:
        await api.call(f"STREAM.UPDATE.{config['name']}", config)
    except ApiError as error:
        text = f"the stream {config['name']} cannot be changed: {error}"
        raise PublisherUnavailableError(api.broker, text) from error
