"""Authentication to a broker and of the broker, in each supported way; secrets are never shown."""

import asyncio
import contextlib
import ssl
import traceback
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from dependency_injector import containers, providers
from structlog.testing import capture_logs

import mediator
from mediator.dependency_injector import lifespan
from mediator.errors import PublisherUnavailableError, SettingError
from mediator.nats import NatsConnection, NatsServer, open_connection
from tests.adapters.nats.identities import Authority, Key, Operator

PACKAGE = str(Path(mediator.__file__).parent)
PASSWORD = "p%C3%A4ss%2Fw%3Ard%40%25"
PLAIN = "päss/w:rd@%"


def seed_file(path: Path, key: Key) -> str:
    path.write_text(key.seed + "\n")
    return str(path)


def nkey_settings(*keys: Key) -> str:
    return f"authorization {{ users: [{', '.join(f'{{nkey: {key.public}}}' for key in keys)}] }}"


def secret_lines(path: str) -> list[str]:
    return [line for line in Path(path).read_text().splitlines() if line and "--" not in line]


async def reason(connection: NatsConnection, *words: str) -> PublisherUnavailableError:
    """Wait until the connection error contains one of some words, and return it."""
    async with asyncio.timeout(10):
        while True:
            try:
                await connection.client("publish", timeout=0.1)
            except PublisherUnavailableError as error:
                if any(word in str(error).lower() for word in words):
                    return error


def shown(error: BaseException) -> str:
    """Return everything that a log may show of an error, with the local variables of the library's frames."""
    texts = [str(error), repr(error), "".join(traceback.format_exception(error))]
    while error is not None:
        for frame, _ in traceback.walk_tb(error.__traceback__):
            if frame.f_code.co_filename.startswith(PACKAGE):
                texts += [f"{name}={value!r}" for name, value in frame.f_locals.items()]
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    return "\n".join(texts)


async def test_user_and_password_come_from_the_url_or_from_options() -> None:
    async with NatsServer(settings=f'authorization {{ user: "ä@p", password: "{PLAIN}" }}') as server:
        host = server.url.removeprefix("nats://")
        for url, options in (
            (f"nats://%C3%A4%40p:{PASSWORD}@{host}", {}),
            (f"nats://%C3%A4%40p@{host}", {"password": PLAIN}),
            (server.url, {"user": "ä@p", "password": PLAIN}),
            (f"nats://wrong:wrong@{host}", {"user": "ä@p", "password": PLAIN, "token": ""}),
        ):
            async with open_connection(url, **options) as connection:
                await connection.client("publish", timeout=5)


async def test_a_token_comes_from_the_url_or_from_an_option() -> None:
    async with NatsServer(settings='authorization { token: "t/k:n" }') as server:
        async with open_connection(server.url.replace("nats://", "nats://t%2Fk%3An@")) as connection:
            await connection.client("publish", timeout=5)
        async with open_connection(server.url, token="t/k:n") as connection:
            await connection.client("consume", timeout=5)


async def test_an_nkey_comes_from_a_file_with_its_seed(tmp_path: Path) -> None:
    key = Key.new()
    async with (
        NatsServer(settings=nkey_settings(key)) as server,
        open_connection(server.url, nkeys_seed=seed_file(tmp_path / "seed", key)) as connection,
    ):
        await connection.client("publish", timeout=5)


async def test_a_jwt_comes_from_a_credentials_file(tmp_path: Path) -> None:
    operator = Operator()
    async with (
        NatsServer(settings=operator.settings) as server,
        open_connection(server.url, user_credentials=operator.credentials(tmp_path / "app.creds")) as connection,
    ):
        await connection.client("publish", timeout=5)


async def test_all_options_may_be_strings_of_a_configuration(tmp_path: Path) -> None:
    authority, key = Authority(tmp_path), Key.new()
    certificate, private = authority.issue("app")

    class Container(containers.DeclarativeContainer):
        config = providers.Configuration(strict=True)
        nats = providers.Resource(
            open_connection,
            config.nats.url,
            user=config.nats.user,
            password=config.nats.password,
            nkeys_seed=config.nats.nkeys_seed,
            tls_ca=config.nats.ca,
            tls_certificate=config.nats.certificate,
            tls_key=config.nats.key,
            tls_hostname=config.nats.hostname,
        )

    settings = nkey_settings(key) + "\n" + authority.settings(verify=True, host="broker.test")
    async with NatsServer(settings=settings) as server:
        values = {
            "url": server.url,
            "user": "",  # like an unset environment variable
            "password": "",
            "nkeys_seed": seed_file(tmp_path / "seed", key),
            "ca": authority.path,
            "certificate": certificate,
            "key": private,
            "hostname": "broker.test",
        }
        container = Container(config={"nats": values})
        async with lifespan(container):
            await container.nats().client("publish", timeout=5)


@pytest.mark.parametrize("first", [False, True], ids=["upgraded", "from the first byte"])
async def test_the_server_is_verified_with_the_authority_in_a_file(tmp_path: Path, first: bool) -> None:
    authority, other = Authority(tmp_path / "ours"), Authority(tmp_path / "theirs")
    settings = authority.settings(more="handshake_first: true" if first else "")
    async with NatsServer(settings=settings) as server:
        url = server.url.replace("nats://", "tls://")
        async with open_connection(url, tls_ca=authority.path, tls_handshake_first=first) as connection:
            await connection.client("publish", timeout=5)
        async with open_connection(url, tls_ca=other.path, tls_handshake_first=first) as connection:
            assert "certificate verify failed" in str(await reason(connection, "verify"))
        context = ssl.create_default_context(cafile=authority.path)
        async with open_connection(server.url, tls=context, tls_handshake_first=first) as connection:
            await connection.client("publish", timeout=5)


async def test_a_client_certificate_is_presented_to_a_server_that_requires_one(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    certificate, key = authority.issue("app")
    both = tmp_path / "both.pem"
    both.write_bytes(Path(key).read_bytes() + Path(certificate).read_bytes())
    async with NatsServer(settings=authority.settings(verify=True)) as server:
        options = {"tls_ca": authority.path, "tls_certificate": certificate, "tls_key": key}
        async with open_connection(server.url, **options) as connection:
            await connection.client("publish", timeout=5)
        async with open_connection(server.url, tls_ca=authority.path, tls_certificate=str(both)) as connection:
            await connection.client("publish", timeout=5)
        async with open_connection(server.url, tls_ca=authority.path) as connection:
            await reason(connection, "certificate required", "bad certificate", "reset", "eof", "empty response")


async def test_a_private_key_may_have_a_password(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    certificate, key = authority.issue("app")
    encrypted = encrypt(key, "hidden")
    async with (
        NatsServer(settings=authority.settings(verify=True)) as server,
        open_connection(
            server.url, tls_ca=authority.path, tls_certificate=certificate, tls_key=encrypted, tls_key_password="hidden"
        ) as connection,
    ):
        await connection.client("publish", timeout=5)


def encrypt(key: str, password: str) -> str:
    private = serialization.load_pem_private_key(Path(key).read_bytes(), None)
    path = Path(key + ".encrypted")
    path.write_bytes(
        private.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.BestAvailableEncryption(password.encode()),
        )
    )
    return str(path)


async def test_an_expired_certificate_is_named_as_the_reason(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    async with (
        NatsServer(settings=authority.settings(expired=True)) as server,
        open_connection(server.url, tls_ca=authority.path) as connection,
    ):
        assert "certificate has expired" in str(await reason(connection, "expired"))


async def test_an_expired_client_certificate_is_refused_by_the_server(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    certificate, key = authority.issue("app", expired=True)
    options = {"tls_ca": authority.path, "tls_certificate": certificate, "tls_key": key}
    async with (
        NatsServer(settings=authority.settings(verify=True)) as server,
        open_connection(server.url, **options) as connection,
    ):
        await reason(connection, "expired", "bad certificate", "reset", "eof", "empty response")


@pytest.mark.parametrize("way", ["scheme", "authority"])
async def test_no_credentials_are_sent_to_a_server_without_the_requested_tls(tmp_path: Path, way: str) -> None:
    heard = bytearray()

    async def eavesdrop(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(
            b'INFO {"server_id":"x","version":"2.12.0","headers":true,"max_payload":1000,"auth_required":true}\r\n'
        )
        with contextlib.suppress(OSError):
            heard.extend(await reader.read())
        writer.close()

    options = {"tls_ca": Authority(tmp_path).path} if way == "authority" else {}
    async with await asyncio.start_server(eavesdrop, "127.0.0.1", 0) as listener:
        host = f"127.0.0.1:{listener.sockets[0].getsockname()[1]}"
        url = f"tls://{host}" if way == "scheme" else f"nats://{host}"
        async with open_connection(url, user="app", password=PLAIN, **options) as connection:
            assert "offers no TLS" in str(await reason(connection, "tls"))
    assert heard == b""


async def wrong_password(folder: Path) -> tuple[str, dict[str, str], list[str]]:
    return 'authorization { user: "app", password: "right" }', {"user": "app", "password": PLAIN}, [PLAIN, PASSWORD]


async def wrong_token(folder: Path) -> tuple[str, dict[str, str], list[str]]:
    return 'authorization { token: "right" }', {"token": PLAIN}, [PLAIN, PASSWORD]


async def wrong_nkey(folder: Path) -> tuple[str, dict[str, str], list[str]]:
    key = Key.new()
    return nkey_settings(Key.new()), {"nkeys_seed": seed_file(folder / "seed", key)}, [key.seed]


async def wrong_jwt(folder: Path) -> tuple[str, dict[str, str], list[str]]:
    path = Operator().credentials(folder / "app.creds")
    return Operator().settings, {"user_credentials": path}, secret_lines(path)


async def expired_jwt(folder: Path) -> tuple[str, dict[str, str], list[str]]:
    operator = Operator()
    path = operator.credentials(folder / "app.creds", expires=-10)
    return operator.settings, {"user_credentials": path}, secret_lines(path)


@pytest.mark.parametrize("way", [wrong_password, wrong_token, wrong_nkey, wrong_jwt, expired_jwt])
async def test_refused_credentials_are_reported_without_a_secret(tmp_path: Path, way) -> None:
    settings, options, secrets = await way(tmp_path)
    async with NatsServer(settings=settings) as server:
        with capture_logs() as logs:
            async with open_connection(server.url, **options) as connection:
                error = await reason(connection, "authorization")
                everything = f"{connection!r} {logs} {shown(error)}"
    assert "Authorization Violation" in everything
    assert not [secret for secret in secrets if secret in everything]


def no_file(folder: Path) -> dict[str, str]:
    return {"user_credentials": str(folder / "missing")}


def no_jwt(folder: Path) -> dict[str, str]:
    return {"user_credentials": seed_file(folder / "only-a-seed", Key.new())}


def empty(folder: Path) -> dict[str, str]:
    (folder / "empty").write_text("")
    return {"nkeys_seed": str(folder / "empty")}


def damaged(folder: Path) -> dict[str, str]:
    (folder / "damaged").write_text("SUHIDDEN")
    return {"nkeys_seed": str(folder / "damaged")}


def binary(folder: Path) -> dict[str, str]:
    (folder / "binary").write_bytes(b"hidden\xff")
    return {"nkeys_seed": str(folder / "binary")}


def of_an_account(folder: Path) -> dict[str, str]:
    return {"nkeys_seed": seed_file(folder / "account", Operator().account)}


def a_folder(folder: Path) -> dict[str, str]:
    return {"nkeys_seed": str(folder)}


def no_authority(folder: Path) -> dict[str, str]:
    (folder / "ca.pem").write_text("hidden")
    return {"tls_ca": str(folder / "ca.pem")}


def no_certificate(folder: Path) -> dict[str, str]:
    return {"tls_certificate": str(folder / "missing.pem")}


def key_of_another(folder: Path) -> dict[str, str]:
    authority = Authority(folder)
    return {"tls_certificate": authority.issue("one")[0], "tls_key": authority.issue("two")[1]}


def locked_key(folder: Path) -> dict[str, str]:
    certificate, key = Authority(folder).issue("one")
    return {"tls_certificate": certificate, "tls_key": encrypt(key, "hidden")}


def key_alone(folder: Path) -> dict[str, str]:
    return {"tls_key": Authority(folder).issue("one")[1]}


def two_ways(folder: Path) -> dict[str, str]:
    return {"token": "hidden", "user": "hidden", "password": "hidden"}


def no_password(folder: Path) -> dict[str, str]:
    return {"user": "hidden"}


def no_user(folder: Path) -> dict[str, str]:
    return {"password": "hidden"}


WRONG = [
    (no_file, "user_credentials", "No such file"),
    (no_jwt, "user_credentials", "no NATS USER JWT"),
    (empty, "nkeys_seed", "no seed"),
    (damaged, "nkeys_seed", "no seed"),
    (binary, "nkeys_seed", "not a text"),
    (of_an_account, "nkeys_seed", "which is not a user"),
    (a_folder, "nkeys_seed", "directory"),
    (no_authority, "tls_ca", "PEM"),
    (no_certificate, "tls_certificate", "No such file"),
    (key_of_another, "tls_certificate", "belong together"),
    (locked_key, "tls_certificate", "password"),
    (key_alone, "tls_key", "tls_certificate"),
    (two_ways, "credentials", "choose one"),
    (no_password, "password", "together"),
    (no_user, "user", "together"),
]


@pytest.mark.parametrize(("make", "setting", "problem"), WRONG, ids=[make.__name__ for make, *_ in WRONG])
def test_invalid_options_are_refused_before_connecting(tmp_path: Path, make, setting: str, problem: str) -> None:
    options = make(tmp_path)
    with pytest.raises(SettingError) as caught:
        open_connection("nats://127.0.0.1:4222", **options)
    assert caught.value.subject == setting
    assert problem in str(caught.value)
    assert "hidden" not in shown(caught.value).lower()


def test_a_context_and_files_are_not_given_together(tmp_path: Path) -> None:
    with pytest.raises(SettingError, match="not both"):
        open_connection("nats://h", tls=ssl.create_default_context(), tls_ca=Authority(tmp_path).path)


@pytest.mark.parametrize(
    "url", ["nats://u:hidden@h:x", "nats://hidden@[::1", "http://u:hidden@h", "nats://u:hi/dden@h"]
)
def test_the_error_for_a_wrong_url_hides_its_password_even_in_logged_local_variables(url: str) -> None:
    options = {"password": "hidden"}  # the traceback shows the line of the call
    with pytest.raises(SettingError) as caught:
        open_connection(url, **options)
    assert "hidden" not in shown(caught.value)
    assert "dden" not in shown(caught.value)


async def test_an_error_in_the_body_shows_no_secret_of_the_connection() -> None:
    url = "nats://u:hidden@127.0.0.1:1"
    with pytest.raises(ZeroDivisionError) as caught:
        async with open_connection(url):
            raise ZeroDivisionError
    assert "hidden" not in shown(caught.value)


async def changed(connection: NatsConnection, server: NatsServer, settings: str) -> None:
    """Restart the server with other settings and wait until the connection has found it again."""
    back = asyncio.Event()
    forget = connection.on_connect("publish", back.set)
    await server.kill()
    server._settings = settings
    await server.start()
    await asyncio.wait_for(back.wait(), 10)
    forget()


async def test_a_replaced_seed_is_used_at_the_next_connect(tmp_path: Path) -> None:
    first, second = Key.new(), Key.new()
    path = seed_file(tmp_path / "seed", first)
    async with (
        NatsServer(settings=nkey_settings(first)) as server,
        open_connection(server.url, nkeys_seed=path) as connection,
    ):
        client = await connection.client("publish", timeout=5)
        seed_file(tmp_path / "seed", second)
        await changed(connection, server, nkey_settings(second))
        assert await connection.client("publish", timeout=5) is client


@pytest.mark.thorough("waits for credentials to expire or to be read again")
async def test_a_seed_that_is_unreadable_for_a_while_is_tried_again(tmp_path: Path) -> None:
    key = Key.new()
    path = seed_file(tmp_path / "seed", key)
    async with (
        NatsServer(settings=nkey_settings(key)) as server,
        open_connection(server.url, nkeys_seed=path) as connection,
    ):
        await connection.client("publish", timeout=5)
        Path(path).write_text("half")
        await server.restart()
        error = await reason(connection, "no seed")
        assert key.seed not in shown(error)
        Path(path).unlink()
        await reason(connection, "no such file")
        seed_file(tmp_path / "seed", key)
        await connection.client("publish", timeout=5)


@pytest.mark.thorough("waits for credentials to expire or to be read again")
async def test_an_expired_jwt_is_replaced_by_the_current_one_in_the_file(tmp_path: Path) -> None:
    operator = Operator()
    lost = asyncio.Event()
    async with NatsServer(settings=operator.settings) as server:
        path = operator.credentials(tmp_path / "app.creds", expires=4)
        async with open_connection(server.url, user_credentials=path) as connection:
            await connection.client("publish", timeout=5)
            connection.on_disconnect("publish", lost.set)
            operator.credentials(tmp_path / "app.creds")
            await asyncio.wait_for(lost.wait(), 20)
            await connection.client("publish", timeout=5)


async def test_replaced_certificates_are_used_at_the_next_connect(tmp_path: Path) -> None:
    ours, theirs = Authority(tmp_path / "first"), Authority(tmp_path / "second")
    used = tmp_path / "used"
    used.mkdir()

    def put(authority: Authority) -> dict[str, str]:
        certificate, key = authority.issue("app")
        files = {"tls_ca": authority.path, "tls_certificate": certificate, "tls_key": key}
        for name, path in files.items():
            _copy(Path(path)).replace(used / name)
        return {name: str(used / name) for name in files}

    async with (
        NatsServer(settings=ours.settings(verify=True)) as server,
        open_connection(server.url, **put(ours)) as connection,
    ):
        await connection.client("publish", timeout=5)
        put(theirs)
        await changed(connection, server, theirs.settings(verify=True))


@pytest.mark.thorough("waits for credentials to expire or to be read again")
async def test_a_certificate_without_its_key_is_retried_until_the_key_exists(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    certificate, key = authority.issue("app")
    options = {"tls_ca": authority.path, "tls_certificate": certificate, "tls_key": key}
    async with (
        NatsServer(settings=authority.settings(verify=True)) as server,
        open_connection(server.url, **options) as connection,
    ):
        await connection.client("publish", timeout=5)
        next_certificate, next_key = map(Path, authority.issue("next"))
        next_certificate.replace(certificate)
        await server.restart()
        await reason(connection, "key values mismatch", "key_values_mismatch")
        next_key.replace(key)
        await connection.client("publish", timeout=5)


def test_the_error_for_keys_without_their_package_names_the_package(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mediator.nats.connection.credentials._nkeys", None)
    with pytest.raises(SettingError, match=r"pip install 'mediator-uow\[nkeys\]'"):
        open_connection("nats://h", nkeys_seed=seed_file(tmp_path / "seed", Key.new()))


def _copy(path: Path) -> Path:
    copy = path.with_suffix(".copy")
    copy.write_bytes(path.read_bytes())
    return copy
