"""NatsCluster: several real nats-servers on this machine that replicate streams, for development and tests."""

import asyncio
import contextlib
import itertools
import os
import socket
from collections.abc import Callable, Coroutine, Iterable, Iterator
from types import TracebackType
from typing import Any, Self

from mediator.errors import ServerStartError, SettingError
from mediator.nats.server import NatsServer

_POLL = 0.02
_CLUSTER = "mediator"
_FIRST_PORT = 20_000
_PORTS = 12_000
_numbers = itertools.count()


class NatsCluster:
    """Runs a cluster: `async with NatsCluster() as cluster: open_connection(cluster.urls)`.

    Each of `servers` can be killed, frozen and started again alone. Streams with `StreamSettings(replicas=3)` go on as
    long as two of three servers run.

    Args:
        size: How many servers, an odd number.
        settings: Further lines of the configuration of each.
        jetstream: Further lines inside the `jetstream` block of each.
        cluster: Further lines inside the `cluster` block of each, such as `no_advertise: true` behind proxies.
        start_timeout: How long a start may take, in seconds.

    Attributes:
        servers: The servers.

    Raises:
        SettingError: The size cannot work.
    """

    def __init__(
        self,
        size: int = 3,
        *,
        settings: str = "",
        jetstream: str = "",
        cluster: str = "",
        start_timeout: float = 30.0,
    ) -> None:
        if size < 1 or size % 2 == 0:
            raise SettingError("size", size, "use an odd number, for a majority")
        ports = _free_ports(size)
        routes = ", ".join(f'"nats://127.0.0.1:{port}"' for port in ports)
        self._start_timeout = start_timeout
        self.servers: tuple[NatsServer, ...] = tuple(
            NatsServer(
                name=f"{_CLUSTER}-{number}",
                settings=f"{_cluster_block(port, routes, cluster)}\n{settings}",
                jetstream=jetstream,
                start_timeout=start_timeout,
            )
            for number, port in enumerate(ports, 1)
        )

    async def __aenter__(self) -> Self:
        try:
            await self.start()
        except BaseException:
            await self.stop()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None, /
    ) -> None:
        await self.stop()

    @property
    def urls(self) -> list[str]:
        """Where clients connect; they need one of them to find the others. All servers must have been started once."""
        return [server.url for server in self.servers]

    async def start(self) -> None:
        """Start what does not run, and wait until the cluster can create streams and every server has caught up.

        Only then may another one be killed: a server that comes back from SIGKILL can have lost what its replicas did not
        write yet, and counts towards no majority until it has that again.

        Raises:
            ServerStartError: A server did not start, or they did not find each other or catch up in time.
        """
        await self._each(server.start() for server in self.servers)
        try:
            async with asyncio.timeout(self._start_timeout):
                await self._found(_meta_leader)
                await self._caught_up()
        except TimeoutError:
            raise ServerStartError(f"the cluster is not whole within {self._start_timeout:g} s") from None

    async def stop(self) -> None:
        """End all servers and remove what they stored."""
        await self._each(server.stop() for server in self.servers)

    async def leader(self, stream: str, consumer: str = "") -> NatsServer:
        """The server that leads a stream, or a consumer of it. Waits until there is one: put it in a timeout."""

        def leading(told: dict[str, Any]) -> str:
            return _leader_of(told, stream, consumer)

        return await self._found(leading, "?streams=true&consumers=true")

    async def _found(self, leading: Callable[[dict[str, Any]], str], query: str = "") -> NatsServer:
        by_name = {server.name: server for server in self.servers}
        while True:
            for server in self.servers:
                told = await server.monitoring(f"/jsz{query}")
                leader = by_name.get(leading(told)) if told is not None else None
                if leader is not None and leader.pid is not None:
                    return leader
            await asyncio.sleep(_POLL)

    async def _caught_up(self) -> None:
        """Wait until all say at the same time that they have what the leaders have.

        So the health check of https://docs.nats.io/running-a-nats-service/nats_admin/monitoring. One after another would
        not do: a server takes a while to notice that its leader died, and is well until then.
        """
        while None in [await each.monitoring("/healthz") for each in self.servers]:  # noqa: ASYNC110  # no event for it
            await asyncio.sleep(_POLL)

    @staticmethod
    async def _each(coroutines: Iterable[Coroutine[Any, Any, None]]) -> None:
        outcomes = await asyncio.gather(*coroutines, return_exceptions=True)
        for outcome in outcomes:
            if outcome is not None:
                raise outcome


def _cluster_block(port: int, routes: str, further: str) -> str:
    return f'cluster {{\n name: {_CLUSTER}, listen: "127.0.0.1:{port}", routes: [{routes}]\n {further}\n}}'


def _meta_leader(told: dict[str, Any]) -> str:
    leader: str = told.get("meta_cluster", {}).get("leader", "")
    return leader


def _leader_of(told: dict[str, Any], stream: str, consumer: str) -> str:
    for detail in _streams(told):
        if detail.get("name") == stream and not consumer:
            return _cluster_leader(detail)
        for each in detail.get("consumer_detail") or ():
            if (detail.get("name"), each.get("name")) == (stream, consumer):
                return _cluster_leader(each)
    return ""


def _streams(told: dict[str, Any]) -> Iterator[dict[str, Any]]:
    for account in told.get("account_details") or ():
        yield from account.get("stream_detail") or ()


def _cluster_leader(detail: dict[str, Any]) -> str:
    cluster: dict[str, Any] = detail.get("cluster") or {}
    leader: str = cluster.get("leader", "")
    return leader


def _free_ports(count: int) -> list[int]:
    """Ports that are free, from below those which systems give to outgoing connections (32768 and up on Linux).

    The servers need to know them before they listen, and until then a connection of any process could be given one. Where
    the search begins depends on the process, so that two of them do not meet.
    """
    found: list[int] = []
    while len(found) < count:
        port = _FIRST_PORT + (os.getpid() * 64 + next(_numbers)) % _PORTS
        with contextlib.suppress(OSError), socket.socket() as tried:
            tried.bind(("127.0.0.1", port))
            found.append(port)
    return found
