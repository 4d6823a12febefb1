"""SupervisedClient: the second outage, a client that dies in silence, probes that fail in a row, and its listeners."""

import asyncio
import itertools
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from types import SimpleNamespace
from typing import Any

import nats.errors
import pytest
from structlog.testing import capture_logs

from mediator.errors import PublisherUnavailableError
from mediator.nats import open_connection
from mediator.nats.connection import end
from mediator.nats.connection.supervised import SupervisedClient
from tests.adapters.nats.offline import OfflineClient
from tests.unit.virtual_time import in_virtual_time, now, settle


class Server:
    """Makes the clients of a supervised client, and lets them fail."""

    def __init__(self) -> None:
        self.clients: list[ScriptedClient] = []
        self.refuses = 0
        self.answers = True
        self.no_jetstream = False

    def make(self) -> "ScriptedClient":
        client = ScriptedClient(self)
        self.clients.append(client)
        return client

    @property
    def last(self) -> "ScriptedClient":
        return self.clients[-1]


class ScriptedClient(OfflineClient):
    def __init__(self, server: Server) -> None:
        super().__init__()
        self.server = server
        self.born = now()
        self.is_connected = False
        self.calls: dict[str, Callable[..., Awaitable[None]]] = {}
        self.forced: list[float] = []
        self.closed_at: float | None = None
        self.close_hangs = False
        self.aborted: list[float] = []
        transport = SimpleNamespace(abort=lambda: self.aborted.append(now()))
        self._transport = SimpleNamespace(_io_writer=SimpleNamespace(transport=transport))

    async def connect(self, _servers: list[str], **options: Any) -> None:
        self.calls = {name: value for name, value in options.items() if name.endswith("_cb")}
        if self.server.refuses:
            self.server.refuses -= 1
            raise OSError("connection refused")
        self.is_connected = True

    async def request(self, subject: str, payload: bytes = b"", timeout: float | None = None) -> Any:
        del payload, timeout
        self.requests.append((now(), subject))
        if self.server.no_jetstream:
            raise nats.errors.NoRespondersError
        if not self.server.answers:
            await asyncio.Event().wait()

    async def force_reconnect(self) -> None:
        self.forced.append(now())

    async def close(self) -> None:
        self.closed_at = now()
        self.is_closed, self.is_connected = True, False
        if self.close_hangs:
            await asyncio.sleep(3600)

    async def lose(self) -> None:
        self.is_connected, self.is_reconnecting = False, True
        await self.calls["disconnected_cb"]()

    async def come_back(self) -> None:
        self.is_connected, self.is_reconnecting = True, False
        await self.calls["reconnected_cb"]()

    async def die(self) -> None:
        self.is_connected, self.is_closed = False, True
        await self.calls["closed_cb"]()


@asynccontextmanager
async def linked(server: Server, probe_interval: float = 5.0) -> AsyncIterator[SupervisedClient]:
    link = SupervisedClient(
        "publish",
        ["nats://x"],
        server.make,  # type: ignore[arg-type]
        {},
        broker="nats://x",
        hide=lambda text: text.replace("secret", "***"),
        probe_interval=probe_interval,
    )
    link.start()
    await settle()
    try:
        yield link
    finally:
        await link.close()


@pytest.fixture(autouse=True)
def clock(monkeypatch: pytest.MonkeyPatch) -> None:
    class Clock:
        monotonic = staticmethod(now)

    monkeypatch.setattr("mediator.nats.connection.supervised.time", Clock)


@in_virtual_time
async def test_each_connect_and_each_loss_reaches_every_listener_once_and_the_log_once() -> None:
    server, told = Server(), list[str]()
    with capture_logs() as logs:
        async with linked(server) as link:
            forget = [
                link.on_connect(lambda: told.append("connected")),
                link.on_disconnect(lambda: told.append("disconnected")),
            ]
            link.on_connect(lambda: told.append("connected too"))
            for outage in range(3):
                epoch = link.epoch
                await server.last.lose()
                await server.last.calls["disconnected_cb"]()
                assert link.epoch == epoch
                with pytest.raises(PublisherUnavailableError, match="was lost"):
                    await link.client(0.1)
                await server.last.come_back()
                assert link.epoch == epoch + 1
                assert await link.client(0.1) is server.last
                assert told == ["disconnected", "connected", "connected too"], outage
                told.clear()
            for each in forget:
                each()
            await server.last.lose()
            await server.last.come_back()
            assert told == ["connected too"]
    events = [line["event"] for line in logs]
    assert events == ["connected", *["disconnected", "connected"] * 4, "closed"]


@in_virtual_time
async def test_a_dead_client_is_replaced_each_time_and_its_listeners_are_called() -> None:
    server, told = Server(), list[str]()
    async with linked(server) as link:
        link.on_connect(lambda: told.append("connected"))
        link.on_disconnect(lambda: told.append("disconnected"))
        for lifetime in range(1, 4):
            await server.last.die()
            await asyncio.sleep(0.6)
            assert len(server.clients) == lifetime + 1
            assert await link.client(0.1) is server.last
            assert told == ["disconnected", "connected"] * lifetime
            await asyncio.sleep(30)
            assert len(server.clients) == lifetime + 1
            assert server.last.forced == []
    assert all(client.is_closed for client in server.clients)


@in_virtual_time
async def test_closing_a_dead_client_takes_at_most_a_second() -> None:
    server = Server()
    async with linked(server):
        for lifetime in (1, 2):
            began = now()
            server.last.close_hangs = True
            await server.last.die()
            while len(server.clients) == lifetime:
                await asyncio.sleep(0.05)
            assert now() - began <= 1.6
            await settle()


@in_virtual_time
async def test_a_client_that_just_lost_its_connection_has_time_to_reconnect_after_any_silence() -> None:
    server = Server()
    async with linked(server):
        for _ in range(3):
            await asyncio.sleep(200)
            await server.last.lose()
            await asyncio.sleep(8)
            await server.last.come_back()
    assert len(server.clients) == 1


@in_virtual_time
async def test_a_refusing_server_is_retried_twice_a_second_and_its_connect_is_logged_once() -> None:
    server = Server()
    server.refuses = 100
    with capture_logs() as logs:
        async with linked(server) as link:
            with pytest.raises(PublisherUnavailableError, match="connection refused"):
                await link.client(2.0)
            assert now() == pytest.approx(2.0)
            await asyncio.sleep(50)
            assert link.epoch == 1
            assert await link.client(1.0) is server.last
    births = [client.born for client in server.clients]
    assert len(births) == 101
    assert births[100] == pytest.approx(50.0, abs=1.0)
    assert all(client.closed_at is not None for client in server.clients[:100])
    assert [line["event"] for line in logs].count("connected") == 1


@in_virtual_time
async def test_two_consecutive_failed_probes_force_a_reconnect_and_one_does_not() -> None:
    server = Server()
    async with linked(server):
        for _ in range(2):
            for _ in range(4):
                server.answers = False
                asked = len(server.last.requests)
                while len(server.last.requests) == asked:
                    await asyncio.sleep(0.1)
                await asyncio.sleep(2.5)
                server.answers = True
                while len(server.last.requests) == asked + 1:
                    await asyncio.sleep(0.1)
            assert server.last.forced == []
            began, server.answers = now(), False
            while not server.last.forced:
                await asyncio.sleep(0.1)
            assert now() - began <= 2 * (5.0 + 2.0) + 0.2
            await server.last.lose()
            server.answers = True
            await server.last.come_back()
            await asyncio.sleep(30)
            assert len(server.last.forced) == 1
            server.last.forced.clear()


@in_virtual_time
async def test_each_forced_reconnect_needs_two_new_failed_probes() -> None:
    server = Server()
    async with linked(server):
        server.answers = False
        while len(server.last.forced) < 4:
            await asyncio.sleep(0.1)
        pauses = [later - earlier for earlier, later in itertools.pairwise(server.last.forced)]
        assert min(pauses) >= 2 * 5.0


@in_virtual_time
async def test_a_failed_probe_before_an_outage_does_not_count_after_it() -> None:
    server = Server()
    async with linked(server):
        server.answers = False
        while not server.last.requests:
            await asyncio.sleep(0.1)
        await asyncio.sleep(2.2)
        await server.last.lose()
        await asyncio.sleep(6)
        await server.last.come_back()
        asked = len(server.last.requests)
        while len(server.last.requests) == asked:
            await asyncio.sleep(0.1)
        await asyncio.sleep(2.2)
        server.answers = True
        assert server.last.forced == []


@in_virtual_time
async def test_probes_are_sent_at_their_interval_and_a_server_without_jetstream_answers_them() -> None:
    server = Server()
    server.no_jetstream = True
    async with linked(server):
        await asyncio.sleep(51)
    times = [at for at, _ in server.last.requests]
    assert len(times) == 10
    assert times[1] - times[0] == pytest.approx(5.0)
    assert server.last.forced == []


@in_virtual_time
async def test_a_silently_reconnecting_client_is_replaced_and_one_that_reports_attempts_is_not() -> None:
    server = Server()
    async with linked(server):
        for lifetime in (1, 2):
            client = server.last
            await client.lose()
            for _ in range(30):
                await asyncio.sleep(4)
                await client.calls["error_cb"](OSError("connection refused"))
            assert len(server.clients) == lifetime
            began = now()
            while len(server.clients) == lifetime:
                await asyncio.sleep(0.1)
            assert 14 <= now() - began <= 21
            await settle()


@in_virtual_time
async def test_closing_is_bounded_although_the_client_hangs_and_no_client_connects_afterwards() -> None:
    server = Server()
    async with linked(server) as link:
        server.last.close_hangs = True
        began = now()
        await link.close()
        assert now() - began <= 1.2
        await asyncio.sleep(60)
        assert len(server.clients) == 1
        with capture_logs() as logs:
            link.start()  # the second outage
            await settle()
        assert [line["event"] for line in logs] == ["connected"]
        assert len(server.clients) == 2
        assert await link.client(0.1) is server.last


@in_virtual_time
async def test_closing_the_connection_fails_the_callers_that_wait_for_it() -> None:
    server = Server()
    async with linked(server) as link:
        await server.last.lose()
        waiting = asyncio.create_task(link.client(5.0))
        await settle()
        await link.close()
        with pytest.raises(PublisherUnavailableError, match="closed"):
            await waiting


@in_virtual_time
async def test_a_refusal_is_logged_once_without_secrets_and_is_the_reason_in_errors() -> None:
    server = Server()
    with capture_logs() as logs:
        async with linked(server) as link:
            error = nats.errors.Error('nats: permissions violation for publish to "secret.subject"')
            for _ in range(3):
                await server.last.calls["error_cb"](error)
            await server.last.lose()
            with pytest.raises(PublisherUnavailableError) as caught:
                await link.client(0.1)
    assert "secret" not in str(caught.value)
    assert [line["event"] for line in logs].count("refused by the broker") == 1


@in_virtual_time
async def test_a_client_without_the_right_to_probe_is_not_probed_until_the_next_connect() -> None:
    server = Server()
    denied = nats.errors.Error('nats: permissions violation for publish to "$js.api.info"')
    async with linked(server):
        for _ in range(2):
            await server.last.calls["error_cb"](denied)
            await asyncio.sleep(60)
            assert server.last.requests == []
            await server.last.lose()
            await server.last.come_back()
            await asyncio.sleep(60)
            assert len(server.last.requests) >= 10
            server.last.requests.clear()
        server.answers = False
        await asyncio.sleep(20)
        assert server.last.forced != []


@in_virtual_time
async def test_a_probe_waits_for_its_answer_no_longer_than_the_interval() -> None:
    server = Server()
    async with linked(server, probe_interval=0.5):
        for _ in range(2):
            began, server.answers = now(), False
            server.last.forced.clear()
            while not server.last.forced:
                await asyncio.sleep(0.05)
            assert now() - began <= 2 * (0.5 + 0.5) + 0.6
            server.answers = True
            await asyncio.sleep(5)


@in_virtual_time
async def test_a_dead_socket_is_dropped_without_waiting_for_its_unsent_bytes() -> None:
    server = Server()
    async with linked(server):
        for _ in range(2):
            server.last.is_connected, server.last.is_reconnecting = False, True  # not reported yet
            began = now()
            while not server.last.aborted:
                await asyncio.sleep(0.1)
            assert now() - began <= 5.1
            await server.last.lose()
            server.last.aborted.clear()
            await asyncio.sleep(10)
            assert server.last.aborted == []  # it reconnects by itself
            await server.last.come_back()
        server.answers = False
        while not server.last.forced:
            await asyncio.sleep(0.1)
        assert len(server.last.aborted) == len(server.last.forced)
        server.last.aborted.clear()
        closed = server.last
    assert closed.aborted != []


@in_virtual_time
async def test_a_task_that_swallows_its_cancellation_is_cancelled_repeatedly_until_it_ends() -> None:
    swallowed = 0

    async def reluctant() -> None:
        nonlocal swallowed
        while swallowed < 3:
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                swallowed += 1

    task = asyncio.create_task(reluctant())
    await settle()
    async with asyncio.timeout(2):
        await end(task)
    assert swallowed == 3


@in_virtual_time
async def test_a_server_that_refuses_credentials_and_hangs_up_is_reported_as_refusing() -> None:
    server = Server()
    async with linked(server) as link:
        for _ in range(2):
            await server.last.calls["error_cb"](nats.errors.AuthorizationError())
            await server.last.lose()
            await server.last.calls["error_cb"](ConnectionResetError("reset by the peer"))
            with pytest.raises(PublisherUnavailableError, match="authorization"):
                await link.client(0.1)
            await server.last.come_back()
            await server.last.lose()
            await server.last.calls["error_cb"](ConnectionResetError("reset by the peer"))
            with pytest.raises(PublisherUnavailableError, match="reset by the peer"):
                await link.client(0.1)
            await server.last.come_back()


@in_virtual_time
async def test_asking_for_a_client_of_a_closing_connection_fails_and_opens_none(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    server = Server()
    monkeypatch.setattr("mediator.nats.connection.connection.AuthenticatedClient", lambda *_, **__: server.make())
    async with open_connection("nats://x") as connection:
        await connection.client("publish", timeout=1)
        server.last.close_hangs = True
        closing = asyncio.create_task(connection.close())
        await settle()
        with pytest.raises(PublisherUnavailableError, match="closed"):
            await connection.client("publish", timeout=1)
        await closing
    assert len(server.clients) == 1


@in_virtual_time
async def test_clients_for_different_purposes_are_independent_and_closed_concurrently(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    server = Server()
    monkeypatch.setattr("mediator.nats.connection.connection.AuthenticatedClient", lambda *_, **__: server.make())
    async with open_connection("nats://x") as connection:
        publishing: Any = await connection.client("publish", timeout=1)
        consuming: Any = await connection.client("consume", timeout=1)
        assert publishing is not consuming
        for lost, purpose, other in ((publishing, "publish", "consume"), (consuming, "consume", "publish")):
            epoch, client = connection.epoch(other), await connection.client(other, timeout=0.1)
            await lost.lose()
            with pytest.raises(PublisherUnavailableError):
                await connection.client(purpose, timeout=0.1)
            assert await connection.client(other, timeout=0.1) is client
            await lost.come_back()
            assert connection.epoch(other) == epoch
        publishing.close_hangs = consuming.close_hangs = True
        began = now()
    assert publishing.closed_at == consuming.closed_at == began
