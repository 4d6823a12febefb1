"""Topology: the streams and durable consumers that publishers and subscriptions need, created when missing.

Requests go to the JetStream API itself (https://docs.nats.io/reference/reference-protocols/nats_api_reference): the
manager of nats-py overwrites existing consumers and drops settings that it does not know.
"""

import json
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any, Literal

import nats.errors
from nats.aio.client import Client

from mediator.distributed.cloudevents import BUCKETS
from mediator.errors import (
    PublisherUnavailableError,
    SettingError,
    StreamMismatchError,
    StreamNotFoundError,
)
from mediator.nats.binding import stream_name
from mediator.nats.link import ask

_PARTITIONS = "mediator.partitions"
_NANOSECONDS = 1_000_000_000
_TIMEOUT = 2.0
_ATOMIC_LEVEL = 2
_NOT_FOUND = 404
_STREAM_EXISTS = 10058
_STREAM_NOT_FOUND = 10059
_CONSUMER_EXISTS = (10013, 10148)


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


@dataclass(eq=False)
class _ApiError(Exception):
    code: int
    err_code: int
    description: str

    def __str__(self) -> str:
        return f"{self.description} ({self.err_code})"


async def ensure_stream(
    client: Client, prefix: str, context: str, settings: StreamSettings, *, provision: bool, broker: str
) -> dict[str, Any]:
    """The configuration of a context's stream, which exists and fits; created when missing and `provision` is set.

    Raises:
        StreamNotFoundError: It is missing, and is not to be created.
        StreamMismatchError: It exists and differs in what matters. It was not changed.
        PublisherUnavailableError: The broker did not answer, or could not create it.
    """
    stream = stream_name(prefix, context)
    wanted = _stream_config(prefix, context, settings)
    found = await _find(client, f"STREAM.INFO.{stream}", broker)
    if found is None and not provision:
        raise StreamNotFoundError(broker, "it was not set up", stream)
    if found is None:
        found = await _create_stream(client, stream, wanted, broker)
    differences = _differences(wanted, found)
    if differences:
        raise StreamMismatchError(broker, "it exists with other settings", stream, differences)
    return found


async def ensure_consumer(
    client: Client, stream: str, group: str, subjects: Collection[str], *, ack_wait: float, broker: str
) -> None:
    """Make sure that the durable consumer of a group exists, fits and receives `subjects`.

    Subjects are only ever added to an existing consumer: while two versions of an application run side by side, the one
    that knows fewer event types must not take events away from the other.

    Raises:
        StreamMismatchError: It exists and cannot be used. It was not changed.
        StreamNotFoundError: The stream is missing.
        PublisherUnavailableError: The broker did not answer, or could not create it.
    """
    wanted = _consumer_config(group, subjects, ack_wait)
    found = await _find(client, f"CONSUMER.INFO.{stream}.{group}", broker, stream)
    if found is None:
        try:
            await _put_consumer(client, stream, wanted, "create", broker)
        except _ApiError as error:
            if error.err_code not in _CONSUMER_EXISTS:
                raise _failure(error, broker, stream) from error
            found = await _find(client, f"CONSUMER.INFO.{stream}.{group}", broker, stream)
    if found is not None:
        await _adapt_consumer(client, stream, wanted, found, broker)


def _stream_config(prefix: str, context: str, settings: StreamSettings) -> dict[str, Any]:
    return {
        "name": stream_name(prefix, context),
        "subjects": [f"{prefix}.{context}.>"],
        "retention": "limits",
        "storage": settings.storage,
        "discard": "new",
        "max_age": round(settings.max_age * _NANOSECONDS),
        "duplicate_window": round(settings.duplicate_window * _NANOSECONDS),
        "max_bytes": settings.max_bytes,
        "max_msgs": -1,
        "max_msg_size": -1,
        "max_consumers": -1,
        "num_replicas": settings.replicas,
        "allow_direct": True,
        "metadata": {_PARTITIONS: str(settings.partitions)},
    }


def _differences(wanted: dict[str, Any], found: dict[str, Any]) -> list[str]:
    differences = [
        f"{name} is {_shown(name, found.get(name))}, not {_shown(name, wanted[name])}"
        for name in ("subjects", "retention", "storage", "discard", "duplicate_window", "max_age")
        if found.get(name) != wanted[name]
    ]
    metadata: dict[str, str] = found.get("metadata") or {}
    partitions = metadata.get(_PARTITIONS)
    needed = wanted["metadata"][_PARTITIONS]
    if partitions != needed:
        differences.append(f"{_PARTITIONS} in its metadata is {partitions}, not {needed}")
    return differences


def _shown(name: str, value: Any) -> str:
    return (
        f"{value / _NANOSECONDS:g} s" if name in {"duplicate_window", "max_age"} and value is not None else str(value)
    )


async def _create_stream(client: Client, stream: str, wanted: dict[str, Any], broker: str) -> dict[str, Any]:
    try:
        account = await _call(client, "INFO", None, broker)
        if account.get("api", {}).get("level", 0) >= _ATOMIC_LEVEL:
            wanted = wanted | {"allow_atomic": True}
        created = await _call(client, f"STREAM.CREATE.{stream}", wanted, broker)
    except _ApiError as error:
        if error.err_code != _STREAM_EXISTS:
            raise PublisherUnavailableError(broker, f"the stream {stream} cannot be created: {error}") from error
    else:
        return _config_of(created)
    found = await _find(client, f"STREAM.INFO.{stream}", broker)
    if found is None:
        raise PublisherUnavailableError(broker, f"the stream {stream} comes and goes")
    return found


def _consumer_config(group: str, subjects: Collection[str], ack_wait: float) -> dict[str, Any]:
    return {
        "name": group,
        "durable_name": group,
        "deliver_policy": "all",
        "ack_policy": "explicit",
        "replay_policy": "instant",
        "ack_wait": round(ack_wait * _NANOSECONDS),
        "max_deliver": -1,
        "max_ack_pending": 1000,
        "filter_subjects": sorted(subjects),
    }


async def _adapt_consumer(
    client: Client, stream: str, wanted: dict[str, Any], found: dict[str, Any], broker: str
) -> None:
    group = wanted["durable_name"]
    differences = [
        f"{name} is {found.get(name)}, not {wanted[name]}"
        for name in ("deliver_policy", "ack_policy", "max_deliver")
        if found.get(name) != wanted[name]
    ]
    if found.get("deliver_subject"):
        differences.append("it pushes instead of being pulled")
    if differences:
        raise StreamMismatchError(broker, "its consumer", stream, [f"consumer {group}: {each}" for each in differences])
    changed = found | {"ack_wait": wanted["ack_wait"], "filter_subjects": _union(wanted, found)}
    changed.pop("filter_subject", None)
    if changed["ack_wait"] != found.get("ack_wait") or set(changed["filter_subjects"]) != _filters(found):
        try:
            await _put_consumer(client, stream, changed, "update", broker)
        except _ApiError as error:
            raise _failure(error, broker, stream) from error


def _filters(config: dict[str, Any]) -> set[str]:
    single: Any = config.get("filter_subject")
    return {*(config.get("filter_subjects") or ()), *([single] if single else ())}


def _union(wanted: dict[str, Any], found: dict[str, Any]) -> list[str]:
    there = _filters(found)
    return sorted(there | _filters(wanted)) if there else []


async def _put_consumer(client: Client, stream: str, config: dict[str, Any], action: str, broker: str) -> None:
    request = {"stream_name": stream, "config": config, "action": action}
    await _call(client, f"CONSUMER.CREATE.{stream}.{config['durable_name']}", request, broker)


async def _find(client: Client, subject: str, broker: str, stream: str = "") -> dict[str, Any] | None:
    """The configuration of a stream or consumer; `None` when it does not exist."""
    try:
        return _config_of(await _call(client, subject, None, broker))
    except _ApiError as error:
        if error.code != _NOT_FOUND:
            raise PublisherUnavailableError(broker, str(error)) from error
        if error.err_code == _STREAM_NOT_FOUND and stream:
            raise _failure(error, broker, stream) from error
        return None


def _failure(error: _ApiError, broker: str, stream: str) -> PublisherUnavailableError:
    if error.err_code == _STREAM_NOT_FOUND:
        return StreamNotFoundError(broker, str(error), stream)
    return PublisherUnavailableError(broker, f"the consumer on {stream} cannot be set up: {error}")


def _config_of(answer: dict[str, Any]) -> dict[str, Any]:
    config: dict[str, Any] = answer["config"]
    return config


async def _call(client: Client, subject: str, body: dict[str, Any] | None, broker: str) -> dict[str, Any]:
    payload = b"" if body is None else json.dumps(body).encode()
    try:
        message = await ask(client, f"$JS.API.{subject}", payload, _TIMEOUT)
    except (nats.errors.Error, OSError) as error:
        reason = str(error) or type(error).__name__
        raise PublisherUnavailableError(broker, f"no answer from JetStream: {reason}") from error
    answer: dict[str, Any] = json.loads(message.data)
    refused: dict[str, Any] | None = answer.get("error")
    if refused is not None:
        raise _ApiError(refused.get("code", 0), refused.get("err_code", 0), refused.get("description", ""))
    return answer
