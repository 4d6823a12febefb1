"""Internals: the only file of this adapter that uses private names of nats-py.

nats-py may change its private names in any release. `tests/assumptions/test_nats_internals.py` tests every use.
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
    """Parses the protocol like nats-py's parser, but accepts control characters in subjects."""

    async def parse(self, data: bytes = b"") -> None:
        """Parse data from the server. Control characters that nats-py would treat as blanks are replaced by `?`."""
        while True:
            try:
                await super().parse(data)
            except ProtocolError:
                if not self._replace_control_characters():
                    raise
            else:
                if not self._replace_control_characters():
                    return
            data = b""

    def _replace_control_characters(self) -> bool:
        """Replace control characters in a pending line of the protocol; return whether the line has changed."""
        end = self.buf.find(_LINE_END)
        if self.state != AWAITING_CONTROL_LINE or end < 0:
            return False
        line = self.buf[:end]
        self.buf[:end] = line.translate(_READABLE)
        return self.buf[:end] != line


class HookedClient(Client):
    """A nats-py client that accepts malformed messages, and calls methods that a subclass may override."""

    def __init__(self) -> None:
        super().__init__()
        self._ps = ProtocolParser(self)

    def before_connect(self) -> None:
        """Do nothing. The client calls this hook at every connect and reconnect, after the TLS handshake."""

    def refused(self, reason: str) -> None:
        """Do nothing. The client calls this hook for each error of the server, with the error's text in lower case."""

    def prove(self, public_key: str, sign: Callable[[str], bytes], jwt: bytes | None) -> None:
        """Authenticate with the given key and JWT at this connect, even if an earlier connect used another key."""
        self._auth_configured = True
        self._public_nkey = public_key
        self._signature_cb = sign
        self._user_jwt_cb = None if jwt is None else lambda: jwt

    def hang_up(self) -> None:
        """Close the socket, which nats-py leaves open when connecting fails."""
        transport: Any = self._transport
        if transport is not None:
            transport.close()

    @property
    def is_encrypted(self) -> bool:
        """Whether the connection is encrypted. This property also works while the client connects."""
        transport: Any = self._transport
        writer: Any = getattr(transport, "_io_writer", None)
        if writer is None:  # a WebSocket
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
        """Return the headers of a message. Malformed headers, which any publisher may send, are dropped."""
        try:
            return await super()._process_headers(headers)  # pyright: ignore[reportUnknownMemberType]  # not annotated
        except (IndexError, ValueError):
            return {}

    def _build_message(
        self, sid: int, subject: bytes, reply: bytes, data: bytes, headers: dict[str, str] | None
    ) -> Msg:
        """Return a message. The server accepts all bytes in subjects; bytes that are not UTF-8 are escaped here."""
        message: Msg = super()._build_message(sid, _in_utf8(subject), _in_utf8(reply), data, headers)
        return message


async def stop_sending(client: Client, subscription: Subscription) -> None:
    """Unsubscribe at the server, but keep receiving the messages that the server has already sent.

    nats-py's `unsubscribe` would drop the messages that arrive later.
    """
    await client._send_unsubscribe(subscription._id)  # noqa: SLF001  # pyright: ignore[reportPrivateUsage]


def abort(client: Client) -> None:
    """Close the socket of a client at once. nats-py's `close` would wait until the socket has sent its data."""
    transport: Any = getattr(client, "_transport", None)
    for name in ("_io_writer", "_bare_io_writer"):  # with TLS, the first writer encrypts for the second
        writer: Any = getattr(transport, name, None)
        if writer is not None:
            writer.transport.abort()


def _in_utf8(subject: bytes) -> bytes:
    return subject if subject.isascii() else subject.decode(errors="backslashreplace").encode()
