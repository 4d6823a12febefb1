"""Inspection: reads the state of a broker, and of the streams and consumers that an application wants on it."""

import asyncio
import json
import urllib.request
from collections.abc import Awaitable
from dataclasses import dataclass
from http.client import HTTPException
from typing import Any

import nats.errors

from mediator.errors import PublisherUnavailableError, SettingError, StreamNotFoundError
from mediator.nats.connection import NatsConnection, redacted
from mediator.nats.topology import NANOSECONDS, PARTITIONS, ApiError, JetStreamApi, Topology
from mediator.secret import Secret, secretly


@dataclass(frozen=True, slots=True)
class AccountState:
    """The used and the maximum storage of the connection's account, in bytes; -1 means no maximum."""

    storage: int
    max_storage: int


@dataclass(frozen=True, slots=True)
class StreamState:
    """The state of a stream.

    Attributes:
        storage: `"file"` or `"memory"`.
        discard: What a full stream does: `"new"` refuses events, `"old"` drops the oldest events.
        retention: `"limits"` when events stay for subscribers that come later.
        max_age: Seconds for which events stay; 0 means forever.
        max_bytes: The maximum size in bytes; -1 means no limit.
        duplicate_window: Seconds for which the stream recognizes the id of an event, and drops duplicates.
        persist_mode: `"async"` when the stream acknowledges an event before it writes the event to disk; else empty.
        partitions: The number of partitions of each event type; 0 when the stream does not state the number.
        offline_replicas: The servers whose copy is offline or behind.
    """

    name: str
    replicas: int
    storage: str
    discard: str
    retention: str
    max_age: float
    max_bytes: int
    duplicate_window: float
    persist_mode: str
    partitions: int
    messages: int
    bytes: int
    offline_replicas: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class ConsumerState:
    """The state of a consumer.

    Attributes:
        max_deliver: The number of deliveries after which the broker drops an event; -1 means that no event is dropped.
        ack_wait: Seconds for which the broker waits for an acknowledgement.
        max_ack_pending: The number of events that may be delivered and not yet acknowledged.
        pending: The number of messages that the consumer still has to deliver.
        ack_floor: The sequence in the stream up to which all messages are acknowledged.
        waiting: The number of waiting pull requests; 0 when no process consumes.
    """

    stream: str
    name: str
    max_deliver: int
    ack_wait: float
    max_ack_pending: int
    paused: bool
    pending: int
    unacknowledged: int
    ack_floor: int
    waiting: int


@dataclass(frozen=True, slots=True)
class Inspection:
    """The result of inspecting a broker.

    A field is `None` when its value could not be read. The reason is among the `problems`.

    Attributes:
        broker: The broker's URLs, without secrets.
        server_version: The version of the connected server; empty when there is no connection.
        max_payload: The maximum size of a message in bytes, headers included.
        jetstream: Whether JetStream answers; `None` when JetStream could not be asked.
        sync_always: Whether the server acknowledges a message only after writing it to disk (`sync_interval: always`).
            Only the server's monitoring reports this setting.
        streams: The wanted streams that exist.
        consumers: The wanted consumers that exist.
        missing_consumers: The wanted consumers that do not exist, as stream and name.
        servers: The number of servers that the connection knows, whether configured or announced by the broker.
    """

    broker: str
    server_version: str = ""
    max_payload: int = 0
    jetstream: bool | None = None
    account: AccountState | None = None
    sync_always: bool | None = None
    streams: tuple[StreamState, ...] = ()
    missing_streams: tuple[str, ...] = ()
    consumers: tuple[ConsumerState, ...] = ()
    missing_consumers: tuple[tuple[str, str], ...] = ()
    problems: tuple[str, ...] = ()
    servers: int = 0

    @property
    def reachable(self) -> bool:
        """Whether a connection was made."""
        return bool(self.server_version)


async def inspect_broker(
    connection: NatsConnection,
    topology: Topology,
    *,
    timeout: float = 5.0,  # noqa: ASYNC109  # the limit of connecting
    monitoring: str | None = None,
) -> Inspection:
    """Inspect a broker, and change nothing. The result names what is unavailable or not allowed.

    Args:
        connection: The connection to the broker.
        topology: The wanted streams and consumers.
        timeout: Seconds to wait for a connection, and for the monitoring.
        monitoring: The URL of a nats-server's monitoring, such as `http://host:8222`.

    Raises:
        SettingError: The monitoring URL is not valid.
    """
    problems: list[str] = []
    page = Secret(monitoring)
    del monitoring  # the URL may hold a password
    with secretly():
        sync_always = await _sync_always(page.reveal(), timeout, problems)
    try:
        client = await connection.client("publish", timeout=timeout)
    except PublisherUnavailableError as error:
        return Inspection(connection.broker, sync_always=sync_always, problems=(*problems, str(error)))
    api = JetStreamApi(client, connection.broker)
    version = client.connected_server_version
    jetstream, account = await _account(api, problems)
    wanted = [] if jetstream is False else [stream.name for stream in topology.streams]
    keys = [] if jetstream is False else [(each.stream, each.settings.name) for each in topology.consumers]
    streams = await asyncio.gather(*(_asked(api.stream(name), problems) for name in wanted))
    consumers = await asyncio.gather(*(_asked(api.consumer(*key), problems) for key in keys))
    return Inspection(
        connection.broker,
        f"{version.major}.{version.minor}.{version.patch}",
        client.max_payload,
        jetstream,
        account,
        sync_always,
        tuple(_stream(info) for info in streams if info),
        tuple(name for name, info in zip(wanted, streams, strict=True) if info is None),
        tuple(_consumer(info) for info in consumers if info),
        tuple(key for key, info in zip(keys, consumers, strict=True) if info is None),
        tuple(dict.fromkeys(problems)),
        len(client.servers),
    )


async def _account(api: JetStreamApi, problems: list[str]) -> tuple[bool | None, AccountState | None]:
    try:
        info = await api.call("INFO")
    except ApiError as error:
        problems.append(f"JetStream is not enabled for this account: {error}")
        return False, None
    except PublisherUnavailableError as error:
        problems.append(error.reason)
        return (False if isinstance(error.__cause__, nats.errors.NoRespondersError) else None), None
    limits: dict[str, Any] = info.get("limits") or {}
    return True, AccountState(info.get("storage", 0), limits.get("max_storage", -1))


async def _asked(asking: Awaitable[dict[str, Any] | None], problems: list[str]) -> dict[str, Any] | None:
    """Return the answer; `None` when the stream or consumer does not exist; `{}` when no answer came."""
    try:
        return await asking
    except StreamNotFoundError:
        return None
    except PublisherUnavailableError as error:
        problems.append(error.reason)
        return {}


def _stream(info: dict[str, Any]) -> StreamState:
    config, state = info["config"], info["state"]
    metadata: dict[str, str] = config.get("metadata") or {}
    cluster: dict[str, Any] = info.get("cluster") or {}
    replicas: list[dict[str, Any]] = cluster.get("replicas") or []
    partitions = metadata.get(PARTITIONS, "")
    return StreamState(
        name=config["name"],
        replicas=config.get("num_replicas", 1),
        storage=config.get("storage", ""),
        discard=config.get("discard", ""),
        retention=config.get("retention", ""),
        max_age=config.get("max_age", 0) / NANOSECONDS,
        max_bytes=config.get("max_bytes", -1),
        duplicate_window=config.get("duplicate_window", 0) / NANOSECONDS,
        persist_mode=config.get("persist_mode", ""),
        partitions=int(partitions) if partitions.isdigit() else 0,
        messages=state["messages"],
        bytes=state["bytes"],
        offline_replicas=tuple(
            each.get("name", "") for each in replicas if not each.get("current") or each.get("offline")
        ),
    )


def _consumer(info: dict[str, Any]) -> ConsumerState:
    config = info["config"]
    return ConsumerState(
        stream=info["stream_name"],
        name=info["name"],
        max_deliver=config.get("max_deliver", -1),
        ack_wait=config.get("ack_wait", 0) / NANOSECONDS,
        max_ack_pending=config.get("max_ack_pending", 0),
        paused=info.get("paused", False),
        pending=info["num_pending"],
        unacknowledged=info["num_ack_pending"],
        ack_floor=info["ack_floor"]["stream_seq"],
        waiting=info.get("num_waiting", 0),
    )


async def _sync_always(url: str | None, seconds: float, problems: list[str]) -> bool | None:
    """Return `sync_always` from the page `/jsz`, which omits false values; `None` when the page cannot be read."""
    if not url:
        return None
    if not url.startswith(("http://", "https://")):
        raise SettingError("monitoring", redacted(url), "write it as http://host:port")
    try:
        page = await asyncio.to_thread(_read, f"{url.rstrip('/')}/jsz", seconds)
        config: dict[str, Any] = page["config"]
    except (OSError, ValueError, LookupError, HTTPException) as error:
        problems.append(f"the monitoring at {redacted(url)} could not be read: {type(error).__name__}")
        return None
    return bool(config.get("sync_always", False))


def _read(url: str, seconds: float) -> dict[str, Any]:
    with urllib.request.urlopen(url, timeout=seconds) as answer:  # noqa: S310  # the scheme was checked
        page: dict[str, Any] = json.loads(answer.read())
    return page
