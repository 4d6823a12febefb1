"""Passwords, tokens and seeds never appear in errors or log lines, even with local variables."""

from pathlib import Path
from typing import Any

import pytest
from dependency_injector import containers, providers

from mediator.blocking import BlockingMediator
from mediator.cli.doctor.inspection import inspect_broker
from mediator.dependency_injector import MediatorProvider, lifespan
from mediator.errors import PublisherUnavailableError, ServerStartError, SettingError
from mediator.nats import NatsServer, open_connection
from mediator.nats.topology import Topology
from tests.adapters.nats.identities import Authority
from tests.seen import seen

SECRET = "hunter2-7f3a9c"
AWAY = "127.0.0.1:1"


@pytest.mark.parametrize(
    ("url", "options"),
    [
        (f"u:{SECRET}@", {}),
        (f"http://u:{SECRET}@h", {}),
        (f"nats://u:{SECRET}@h:port", {}),
        (f"nats://u:{SECRET}@h:0", {}),
        (f"nats://u:{SECRET}@[h", {}),
        (f"nats://u:p@{SECRET}@", {}),
        ([f"nats://u:{SECRET}@a", "nats://u:other@b"], {}),
        ([f"nats://u:{SECRET}@a", 5], {}),
        ([], {"password": SECRET}),
        (None, {"token": SECRET}),
        (5, {"token": SECRET}),
        (f"nats://u:{SECRET}@h".encode(), {}),
        ({f"nats://u:{SECRET}@h": 1}, {}),
        ("nats://h", {"password": SECRET}),
        ("nats://h", {"user": "u", "password": SECRET, "token": SECRET}),
        (f"nats://{SECRET}@h", {"inbox_prefix": "a b"}),
        (f"nats://{SECRET}@h", {"probe_interval": -1}),
        (f"nats://{SECRET}@h", {"probe_interval": "often"}),
        (f"nats://{SECRET}@h", {"tls_ca": "/nowhere", "tls_key_password": SECRET}),
        (f"nats://{SECRET}@h", {"tls_key": "/nowhere", "tls_key_password": SECRET}),
        (f"nats://{SECRET}@h", {"user_credentials": "/nowhere"}),
        (f"nats://{SECRET}@h", {"nkeys_seed": "/nowhere"}),
    ],
)
async def test_no_error_of_a_setting_shows_a_secret(url: Any, options: dict[str, Any]) -> None:
    with pytest.raises(SettingError) as caught:
        open_connection(url, **options)
    assert SECRET not in seen(caught.value)


@pytest.mark.parametrize("option", ["user_credentials", "nkeys_seed"])
@pytest.mark.parametrize(
    "content",
    [
        f"SU{SECRET}",
        f"-----BEGIN NATS USER JWT-----\n{SECRET}\n-----END\n-----BEGIN USER NKEY SEED-----\n{SECRET}\n-----END",
        f"ä{SECRET}",
    ],
)
async def test_no_error_of_a_file_shows_its_contents(tmp_path: Path, option: str, content: str) -> None:
    file = tmp_path / "file"
    file.write_text(content, "utf-8")
    with pytest.raises(SettingError) as caught:
        open_connection("nats://h", **{option: str(file)})  # type: ignore[arg-type]
    assert SECRET not in seen(caught.value)


async def test_no_error_of_a_key_shows_its_password(tmp_path: Path) -> None:
    certificate, key = Authority(tmp_path).issue("app")
    Path(key).write_text("-----BEGIN ENCRYPTED PRIVATE KEY-----\nAAAA\n-----END ENCRYPTED PRIVATE KEY-----\n")
    with pytest.raises(SettingError) as caught:
        open_connection(f"nats://{SECRET}@h", tls_certificate=certificate, tls_key=key, tls_key_password=SECRET)
    assert SECRET not in seen(caught.value)


@pytest.mark.thorough("waits in real time, or does much work")
async def test_the_error_for_an_unreachable_or_refusing_broker_contains_no_secret() -> None:
    settings = 'authorization { user: "u", password: "another" }'
    async with NatsServer(settings=settings) as server:
        for place in (AWAY, server.url.removeprefix("nats://"), "no.such.host.invalid"):
            async with open_connection(f"nats://u:{SECRET}@{place}") as connection:
                with pytest.raises(PublisherUnavailableError) as caught:
                    await connection.client("publish", timeout=0.3)
                assert SECRET not in seen(caught.value)
                assert SECRET not in repr((connection, connection.broker))


async def test_the_error_for_an_invalid_monitoring_address_does_not_show_it() -> None:
    async with open_connection(f"nats://{AWAY}") as connection:
        with pytest.raises(SettingError) as caught:
            await inspect_broker(connection, Topology("events"), timeout=0.2, monitoring=f"ftp://u:{SECRET}@h")
    assert SECRET not in seen(caught.value)


@pytest.mark.parametrize(
    "monitoring", [f"http://u:{SECRET}@{AWAY}", f"http://u:{SECRET}@[h", f"http://u:{SECRET}@h:\t"]
)
async def test_the_report_does_not_contain_the_address_of_a_silent_monitoring(monitoring: str) -> None:
    async with open_connection(f"nats://{AWAY}") as connection:
        found = await inspect_broker(connection, Topology("events"), timeout=0.2, monitoring=monitoring)
    assert SECRET not in repr(found)


@pytest.mark.parametrize("trouble", ["a directory as port", "\ud800", "authorization {"])
async def test_a_server_that_does_not_start_shows_no_password_of_its_settings(trouble: str) -> None:
    settings = f'authorization {{ user: "u", password: "{SECRET}" }}\n{trouble}'
    with pytest.raises(ServerStartError) as caught:
        async with NatsServer(settings=settings):
            pass
    assert SECRET not in seen(caught.value)


class Broken(containers.DeclarativeContainer):
    """A container whose broker cannot be opened."""

    config = providers.Configuration(default={"url": f"nats://u:{SECRET}@h:port", "token": SECRET})
    nats = providers.Resource(open_connection, config.url, token=config.token)
    literal = providers.Object(f"nats://u:{SECRET}@h")
    mediator = MediatorProvider()


async def test_a_container_that_cannot_start_shows_no_secret() -> None:
    with pytest.raises(Exception, match="cannot work") as caught:
        async with lifespan(Broken()):
            pass
    assert SECRET not in seen(caught.value)


def test_a_blocking_mediator_that_cannot_start_shows_no_secret() -> None:
    container = Broken()
    with (
        pytest.raises(Exception, match="cannot work") as caught,
        BlockingMediator(container.mediator(), lifespan(container)),
    ):
        pass
    assert SECRET not in seen(caught.value)
