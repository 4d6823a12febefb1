"""Assumptions of `mediator.nats.connection.internals` about private parts of nats-py, which may change."""

import ast
import asyncio
import inspect
import json
import re
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import nats.errors
import pytest
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.aio.subscription import Subscription
from nats.aio.transport import TcpTransport, WebSocketTransport
from nats.protocol.parser import AWAITING_CONTROL_LINE, Parser

from mediator.nats import NatsServer
from mediator.nats.connection import AuthenticatedClient, internals
from mediator.nats.connection.internals import ProtocolParser

pytestmark = pytest.mark.thorough("tests other libraries and servers, which a change here cannot break")

NATS = Path(internals.__file__).parent
OVERRIDDEN = {
    "__init__",
    "_ps",
    "_connect_command",
    "_process_err",
    "_process_headers",
    "_build_message",
    "ssl_context",
}
GIVEN = {"_auth_configured", "_public_nkey", "_signature_cb", "_user_jwt_cb"}


class RecordingClient(Client):
    """Records the private methods that nats-py calls, with their arguments."""

    def __init__(self) -> None:
        super().__init__()
        self.called: list[tuple[str, Any]] = []
        self.called_back = asyncio.Event()

    def note(self, name: str, what: Any) -> None:
        self.called.append((name, what))
        self.called_back.set()

    def of(self, name: str) -> list[Any]:
        return [what for called, what in self.called if called == name]

    def _connect_command(self) -> bytes:
        transport: Any = self._transport
        self.note("_connect_command", transport._io_writer.get_extra_info("peername")[1])
        return super()._connect_command()

    async def _process_err(self, err_msg: str) -> None:
        self.note("_process_err", err_msg)
        await super()._process_err(err_msg)

    async def _process_headers(self, headers: bytes | None) -> dict[str, str] | None:
        self.note("_process_headers", headers)
        return await super()._process_headers(headers)

    def _build_message(self, sid: int, subject: bytes, reply: bytes, data: bytes, headers: Any) -> Msg:
        self.note("_build_message", (sid, subject, reply, data, headers))
        return super()._build_message(sid, subject, reply, data, headers)


@pytest.fixture
async def watched(shared_server: NatsServer) -> AsyncIterator[RecordingClient]:
    client = RecordingClient()
    await client.connect(shared_server.url)
    yield client
    await client.close()


async def received(subscription: Subscription) -> Msg:
    async with asyncio.timeout(10):
        return await subscription.next_msg(timeout=None)


async def test_a_client_receives_its_data_through_the_parser_in_ps(shared_server: NatsServer):
    fed: list[bytes] = []

    class Feeding(Parser):
        async def parse(self, data: bytes = b"") -> None:
            fed.append(data)
            await super().parse(data)

    client = Client()
    assert type(client._ps) is Parser
    client._ps = Feeding(client)
    await client.connect(shared_server.url)
    subscription = await client.subscribe("fed")
    await client.publish("fed", b"food")
    assert (await received(subscription)).data == b"food"
    await client.close()
    assert b"food" in b"".join(fed)


async def test_the_parser_keeps_an_unreadable_line_in_buf_and_its_state_shows_it():
    parser = Parser(Client())
    assert isinstance(parser.buf, bytearray)
    with pytest.raises(nats.errors.ProtocolError):
        await parser.parse(b"MSG a\x0bb 1 1\r\nx\r\n")
    assert parser.state == AWAITING_CONTROL_LINE
    assert parser.buf.startswith(b"MSG a\x0bb 1 1\r\n")


async def test_connect_command_builds_the_first_command_of_each_connect_and_reconnect(server: NatsServer):
    client, port = RecordingClient(), int(server.url.rpartition(":")[2])
    again = asyncio.Event()

    async def reconnected() -> None:
        again.set()

    await client.connect(server.url, reconnected_cb=reconnected, reconnect_time_wait=0.05, max_reconnect_attempts=-1)
    assert client.of("_connect_command") == [port]
    assert client._connect_command().startswith(b"CONNECT {")
    client.called.clear()
    await server.restart()
    async with asyncio.timeout(10):
        await again.wait()
    assert client.of("_connect_command")[-1] == port
    await client.close()


async def test_an_error_of_connect_command_fails_the_connect_and_leaves_the_transport_open(shared_server: NatsServer):
    class Failing(Client):
        def _connect_command(self) -> bytes:
            raise nats.errors.Error("not like this")

    client, errors = Failing(), []

    async def failed(error: Exception) -> None:
        errors.append(error)

    with pytest.raises((nats.errors.Error, OSError)):
        await client.connect(shared_server.url, allow_reconnect=False, error_cb=failed)
    transport: Any = client._transport
    transport.close()
    assert "not like this" in str(errors[0])


async def test_an_error_of_the_server_is_handed_to_process_err_in_lower_case():
    users = 'authorization { users: [ { user: u, password: p, permissions: { publish: "A" } } ] }'
    async with NatsServer(settings=users) as server:
        client = RecordingClient()
        await client.connect(server.url, user="u", password="p")
        client.called_back.clear()
        await client.publish("Forbidden", b"")
        async with asyncio.timeout(10):
            await client.called_back.wait()
        assert client.of("_process_err") == ["'permissions violation for publish to \"forbidden\"'"]
        await client.close()


@pytest.mark.parametrize("garbage", [b"", b"NATS/1.0\r\n\xff\xfe\r\n\r\n", b"\xff" * 30, b"NATS/1.0\r\n: x\r\n\r\n"])
async def test_process_headers_parses_bytes_or_raises_a_known_error(garbage: bytes):
    client = Client()
    assert await client._process_headers(b"NATS/1.0\r\na: b\r\n\r\n") == {"a": "b"}
    try:
        read = await client._process_headers(garbage)
    except (IndexError, ValueError):
        return
    assert read is None or isinstance(read, dict)


async def test_a_message_passes_process_headers_and_build_message_in_bytes(watched: RecordingClient):
    subscription = await watched.subscribe("passing")
    await watched.publish("passing", b"x", reply="answer", headers={"a": "b"})
    message = await received(subscription)
    assert (message.subject, message.reply, message.data, message.headers) == ("passing", "answer", b"x", {"a": "b"})
    (headers,) = watched.of("_process_headers")
    assert bytes(headers).startswith(b"NATS/1.0\r\na: b")
    sid, *built = watched.of("_build_message")[0]
    assert isinstance(sid, int)
    assert [each if isinstance(each, dict) else bytes(each) for each in built] == [
        b"passing",
        b"answer",
        b"x",
        {"a": "b"},
    ]
    with pytest.raises(UnicodeDecodeError):
        Client._build_message(watched, 1, b"\xff", b"", b"", None)


async def test_the_signed_challenge_is_in_the_next_connect_command(watched: RecordingClient):
    asked: list[str] = []

    def sign(nonce: str) -> bytes:
        asked.append(nonce)
        return b"signed"

    watched._server_info["nonce"] = "n"
    assert {"sig", "nkey", "jwt"}.isdisjoint(connect_options(watched))
    watched._auth_configured = True
    watched._public_nkey, watched._signature_cb, watched._user_jwt_cb = "UKEY", sign, None
    told = connect_options(watched)
    assert (told["sig"], told["nkey"], asked) == ("signed", "UKEY", ["n"])
    watched._user_jwt_cb = lambda: b"jwt"
    told = connect_options(watched)
    assert (told["sig"], told["jwt"], "nkey" in told) == ("signed", "jwt", False)


def connect_options(client: Client) -> dict[str, Any]:
    options: dict[str, Any] = json.loads(client._connect_command().removeprefix(b"CONNECT "))
    return options


async def test_the_transport_has_two_writers_and_a_plain_one_has_no_tls(client: Client):
    transport: Any = client._transport
    assert isinstance(transport, TcpTransport)
    assert isinstance(transport._io_writer, asyncio.StreamWriter)
    assert transport._bare_io_writer is transport._io_writer
    assert transport._io_writer.get_extra_info("ssl_object") is None
    assert callable(transport._io_writer.transport.abort)


async def test_closing_or_aborting_the_transport_loses_the_connection(shared_server: NatsServer):
    for end in (lambda transport: transport.close(), lambda transport: transport._io_writer.transport.abort()):
        lost = asyncio.Event()

        async def disconnected(lost: asyncio.Event = lost) -> None:
            lost.set()

        client = Client()
        await client.connect(shared_server.url, disconnected_cb=disconnected, allow_reconnect=False)
        end(client._transport)
        async with asyncio.timeout(10):
            await lost.wait()
        await client.close()


def test_the_transport_of_a_web_socket_has_no_writer():
    assert "_io_writer" not in inspect.getsource(WebSocketTransport)


async def test_the_current_server_has_the_url_it_is_connected_to(client: Client, shared_server: NatsServer):
    assert client._current_server is not None
    assert client._current_server.uri.scheme == "nats"
    assert client._current_server.uri.geturl() == shared_server.url


async def test_send_unsubscribe_stops_new_messages_and_keeps_received_ones(client: Client):
    taken: list[bytes] = []

    async def take(message: Msg) -> None:
        taken.append(message.data)

    subscription = await client.subscribe("ending", cb=take)
    await client.publish("ending", b"before")
    await client._send_unsubscribe(subscription._id)
    await client.publish("ending", b"after")
    await client.request("$JS.API.INFO", b"", timeout=10)
    async with asyncio.timeout(10):
        while subscription.pending_msgs or not taken:
            await asyncio.sleep(0)
    assert taken == [b"before"]
    await subscription.unsubscribe()


OURS = {"_in_utf8", "_replace_control_characters"}
"""Private names that the file of internals defines itself."""


def private_names(file: Path, *, of_others: bool) -> set[str]:
    """Return the private names in attributes, methods and strings of a file; `of_others` excludes those of `self`."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(file.read_text())):
        match node:
            case ast.Attribute(value=ast.Name(id="self" | "cls")) if of_others:
                pass
            case ast.Attribute(attr=name) | ast.Constant(value=str(name)):
                if re.fullmatch(r"_[a-z]\w*", name) and name not in OURS:
                    found.add(name)
            case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name) if not of_others and name[:2] != "__":
                if name.startswith("_") and name not in OURS:
                    found.add(name)
    return found


def test_each_private_name_that_the_library_uses_has_a_test_here():
    used = private_names(Path(internals.__file__), of_others=False)
    assert used >= GIVEN | OVERRIDDEN - {"__init__", "ssl_context"}
    tests = Path(__file__).read_text().partition("\ndef private_names")[0]
    assert [name for name in sorted(used) if f".{name}" not in tests and f"def {name}" not in tests] == []


@pytest.mark.parametrize("file", sorted(NATS.glob("**/*.py")), ids=lambda file: file.name)
def test_no_other_file_uses_a_private_name(file: Path):
    if file != Path(internals.__file__):
        assert private_names(file, of_others=True) == set()


@pytest.mark.parametrize(
    ("cls", "meant"),
    [
        (internals.HookedClient, OVERRIDDEN | GIVEN | {"_transport", "_current_server"}),
        (AuthenticatedClient, {"__init__", "ssl_context"}),
    ],
)
def test_a_subclass_of_the_client_overrides_no_name_by_accident(cls: type[Client], meant: set[str]):
    nodes = [*ast.walk(ast.parse(inspect.getsource(cls)))]
    own = {node.attr for node in nodes if isinstance(node, ast.Attribute) and ast.unparse(node.value) == "self"}
    own |= {node.name for node in nodes if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)}
    assert own & {*dir(Client), *vars(Client())} <= meant


def test_a_subclass_of_the_parser_overrides_no_name_by_accident():
    theirs = {*dir(Parser), *vars(Parser(Client()))}
    assert {name for name in vars(ProtocolParser) if name in theirs and not name.startswith("__")} == {"parse"}
