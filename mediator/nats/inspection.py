"""Inspection: what can be seen of a broker, and of the streams and consumers that an application wants there."""

import asyncio
import json
import urllib.request
from collections.abc import Awaitable, Iterable
from dataclasses import dataclass
from typing import Any

import nats.errors

from mediator.errors import PublisherUnavailableError, SettingError, StreamNotFoundError
from mediator.nats.addresses import redacted
from mediator.nats.api import NANOSECONDS, ApiError, JetStreamApi
from mediator.nats.connection import NatsConnection
from mediator.nats.streams import PARTITIONS
from mediator.nats.topology import Topology


@dataclass(frozen=True, slots=True)
class AccountState:
    """What JetStream says of the account of the connection.

    Attributes:
        api_level: The level of its API: 2 is nats-server 2.12, 4 is 2.14.
        storage: Bytes in files.
        max_storage: How many there may be; -1 without a limit of the account.
        streams: How many streams there are.
        consumers: How many consumers there are.
    """

    api_level: int
    storage: int
    max_storage: int
    streams: int
    consumers: int


@dataclass(frozen=True, slots=True)
class StreamState:
    """A stream as it is.

    Attributes:
        name: Its name.
        replicas: On how many servers it is stored.
        storage: `"file"` or `"memory"`.
        discard: `"new"`: it refuses events when it is full; `"old"`: it drops the oldest ones.
        retention: `"limits"` where events stay for subscribers that come later.
        max_age: How long events stay, in seconds; 0 is for ever.
        max_bytes: How large it may get; -1 without a limit.
        duplicate_window: How long an id is known again, in seconds.
        allow_atomic: Whether it takes atomic batches.
        persist_mode: `"async"` where it acknowledges before it writes; empty where it does not.
        partitions: Into how many each event type is divided; 0 when it does not say.
        messages: How many it has.
        bytes: How large it is.
        first_sequence: The number of the oldest message.
        last_sequence: The number of the newest one.
        offline_replicas: The servers whose copy is away or behind.
    """

    name: str
    replicas: int
    storage: str
    discard: str
    retention: str
    max_age: float
    max_bytes: int
    duplicate_window: float
    allow_atomic: bool
    persist_mode: str
    partitions: int
    messages: int
    bytes: int
    first_sequence: int
    last_sequence: int
    offline_replicas: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class ConsumerState:
    """A consumer as it is.

    Attributes:
        stream: Its stream.
        name: Its name.
        max_deliver: After how many deliveries the broker gives an event up; -1 is never.
        ack_wait: How long it waits for an acknowledgement, in seconds.
        max_ack_pending: How many may be out without one.
        paused: Whether it is paused.
        pending: How many messages it has still to deliver.
        unacknowledged: How many are out.
        redelivered: How many of these were delivered before.
        ack_floor: The sequence in the stream up to which all are acknowledged.
        waiting: How many pull requests wait; 0 when nobody consumes.
    """

    stream: str
    name: str
    max_deliver: int
    ack_wait: float
    max_ack_pending: int
    paused: bool
    pending: int
    unacknowledged: int
    redelivered: int
    ack_floor: int
    waiting: int


@dataclass(frozen=True, slots=True)
class Inspection:
    """What was seen. What could not be seen is `None`, and the reason is among the problems.

    Attributes:
        broker: Its URLs, without secrets.
        server_version: The version of the server that the connection is to; empty when there is no connection.
        max_payload: How large a message may be, headers included, in bytes.
        jetstream: Whether JetStream answers; `None` when it could not be asked.
        account: What it says of the account.
        sync_always: Whether the server writes through to its disk before it acknowledges (`sync_interval: always`). It is
            only told by the monitoring of a server, not to clients.
        streams: Those that are wanted and exist.
        missing_streams: Those that are wanted and do not.
        consumers: Those that are wanted and exist.
        missing_consumers: Those that are wanted and do not, as stream and name.
        problems: Why something could not be seen.
        servers: How many servers the connection knows, those that were named and those that the broker told of.
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
        """Whether there is a connection."""
        return bool(self.server_version)


async def inspect_broker(
    connection: NatsConnection,
    topology: Topology,
    *,
    timeout: float = 5.0,  # noqa: ASYNC109  # the bound is part of the promise
    monitoring: str | None = None,
) -> Inspection:
    """Look at a broker, without changing anything. Whatever is away or not allowed is told in the report.

    Args:
        connection: Where the broker is.
        topology: What is wanted of it.
        timeout: How long to wait for a connection, and for the monitoring, in seconds.
        monitoring: The URL of the monitoring of a server, such as `http://host:8222`.

    Raises:
        SettingError: The URL of the monitoring is not one.
    """
    problems: list[str] = []
    sync_always = await _sync_always(monitoring, timeout, problems) if monitoring else None
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
    level: int = info.get("api", {}).get("level", 0)
    return True, AccountState(
        level, info.get("storage", 0), limits.get("max_storage", -1), info.get("streams", 0), info.get("consumers", 0)
    )


async def _asked(asking: Awaitable[dict[str, Any] | None], problems: list[str]) -> dict[str, Any] | None:
    """The answer; `None` when what is asked for does not exist, empty when there was no answer."""
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
        allow_atomic=config.get("allow_atomic", False),
        persist_mode=config.get("persist_mode", ""),
        partitions=int(partitions) if partitions.isdigit() else 0,
        messages=state["messages"],
        bytes=state["bytes"],
        first_sequence=state["first_seq"],
        last_sequence=state["last_seq"],
        offline_replicas=tuple(_lagging(cluster.get("replicas") or ())),
    )


def _lagging(replicas: Iterable[dict[str, Any]]) -> Iterable[str]:
    return (each.get("name", "") for each in replicas if each.get("offline") or not each.get("current"))


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
        redelivered=info["num_redelivered"],
        ack_floor=info["ack_floor"]["stream_seq"],
        waiting=info.get("num_waiting", 0),
    )


async def _sync_always(url: str, seconds: float, problems: list[str]) -> bool | None:
    """What `/jsz` of the monitoring says; that page leaves it out when it is not set."""
    if not url.startswith(("http://", "https://")):
        raise SettingError("monitoring", redacted(url), "write it as http://host:port")
    try:
        page = await asyncio.to_thread(_read, f"{url.rstrip('/')}/jsz", seconds)
        config: dict[str, Any] = page["config"]
    except (OSError, ValueError, LookupError) as error:
        problems.append(f"the monitoring at {redacted(url)} does not tell: {type(error).__name__}")
        return None
    return bool(config.get("sync_always", False))


def _read(url: str, seconds: float) -> dict[str, Any]:
    with urllib.request.urlopen(url, timeout=seconds) as answer:  # noqa: S310  # the scheme was checked
        page: dict[str, Any] = json.loads(answer.read())
    return page
