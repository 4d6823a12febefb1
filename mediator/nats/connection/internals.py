"""Internals: wraps each private name of nats-py that this adapter needs. No other file uses such a name.

nats-py makes no promises about them, so each has a test in `tests/assumptions/test_nats_internals.py`.
"""

from collections.abc import Callable
from typing import Any

from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.aio.subscription import Subscription
from nats.errors import ProtocolError
from nats.protocol.parser import AWAITING_CONTROL_LINE, Parser

_LINE_END = b"\r\n"
_READABLE = bytes.maketrans(b"\v\f\r", b"???")


class ProtocolParser(Parser):
    """Parses the data that a server sends."""

    async def parse(self, data: bytes = b"") -> None:
        """Parse data. In a message's subject, characters that nats-py would take for blanks become question marks."""
        while True:
            try:
                await super().parse(data)
            except ProtocolError:
                if not self._made_readable():
                    raise
            else:
                if not self._made_readable():
                    return
            data = b""

    def _made_readable(self) -> bool:
        """Make the pending control line readable for nats-py; return whether the line has changed."""
        end = self.buf.find(_LINE_END)
        if self.state != AWAITING_CONTROL_LINE or end < 0:
            return False
        line = self.buf[:end]
        self.buf[:end] = line.translate(_READABLE)
        return self.buf[:end] != line


class HookedClient(Client):
    """A nats-py client that accepts malformed messages from strangers, and has hooks for a subclass."""

    def __init__(self) -> None:
        super().__init__()
        self._ps = ProtocolParser(self)

    def before_connect(self) -> None:
        """Called at each connect and reconnect, after encryption has started and before the first command is sent."""

    def refused(self, reason: str) -> None:
        """Called with the text of each error that the server reports, in lower case."""

    def prove(self, public_key: str, sign: Callable[[str], bytes], jwt: bytes | None) -> None:
        """Set the answer to the server's challenge at this connect, in place of an earlier answer."""
        self._auth_configured = True
        self._public_nkey = public_key
        self._signature_cb = sign
        self._user_jwt_cb = None if jwt is None else lambda: jwt

    def hang_up(self) -> None:
        """Close the socket: nats-py would leave it open and open another one at its next try."""
        transport: Any = self._transport
        if transport is not None:
            transport.close()

    @property
    def is_encrypted(self) -> bool:
        """Whether the connection is encrypted, as far as it has been made."""
        transport: Any = self._transport
        writer: Any = getattr(transport, "_io_writer", None)
        if writer is None:  # a WebSocket, which is encrypted when its URL says so
            return self._current_server is not None and self._current_server.uri.scheme == "wss"
        return writer.get_extra_info("ssl_object") is not None

    def _connect_command(self) -> bytes:
        try:
            self.before_connect()
        except BaseException:
            self.hang_up()
            raise
        return super()._connect_command()

    async def _process_err(self, err_msg: str) -> None:
        self.refused(err_msg)
        await super()._process_err(err_msg)

    async def _process_headers(self, headers: bytes | None) -> dict[str, str] | None:
        """Publishers can put any bytes into headers: a message with broken headers arrives without headers."""
        try:
            return await super()._process_headers(headers)  # pyright: ignore[reportUnknownMemberType]  # not annotated
        except (IndexError, ValueError):
            return {}

    def _build_message(
        self, sid: int, subject: bytes, reply: bytes, data: bytes, headers: dict[str, str] | None
    ) -> Msg:
        """Escape bytes in subjects and reply subjects that are not UTF-8; the server does not check them."""
        message: Msg = super()._build_message(sid, _in_utf8(subject), _in_utf8(reply), data, headers)
        return message


async def stop_sending(client: Client, subscription: Subscription) -> None:
    """Ask the server to send nothing more, and keep what it has sent: nats-py's `unsubscribe` drops later arrivals."""
    await client._send_unsubscribe(subscription._id)  # noqa: SLF001  # pyright: ignore[reportPrivateUsage]


def abort(client: Client) -> None:
    """Close the socket of a client at once: nats-py's `close` waits until the socket has sent its data."""
    transport: Any = getattr(client, "_transport", None)
    for name in ("_io_writer", "_bare_io_writer"):  # with TLS, the second writer lies beneath the first
        writer: Any = getattr(transport, name, None)
        if writer is not None:
            writer.transport.abort()


def _in_utf8(subject: bytes) -> bytes:
    return subject if subject.isascii() else subject.decode(errors="backslashreplace").encode()
