"""AuthenticatedClient: a nats-py client that reads its credentials anew at every connect and reconnect.

nats-py itself keeps the public key of the first connect, waits for ever for the end of a credentials file that has no
JWT, hands its password to a server that says it has no TLS, and stops reading at headers and subjects that are none.
"""

import re
import ssl
from collections.abc import Callable
from typing import Any

import nats.errors
from nats.aio.client import Client
from nats.aio.msg import Msg

from mediator.nats.credentials import Credentials
from mediator.nats.protocol import ProtocolParser
from mediator.nats.tls import Tls

_DENIED = re.compile(r'permissions violation for publish to "(\S+)"')  # nats-py passes it on in lower case


class AuthenticatedClient(Client):
    """A client with credentials and encryption.

    Args:
        credentials: How it proves who it is.
        tls: How it encrypts.
        encrypted: Whether a server that does not encrypt is refused.
    """

    def __init__(self, credentials: Credentials, tls: Tls, *, encrypted: bool) -> None:
        super().__init__()
        self._ps = ProtocolParser(self)
        self._encrypted = encrypted
        self._denied: set[str] = set()
        self._on_denied: list[tuple[str, Callable[[], None]]] = []
        self._credentials = credentials
        self._tls = tls

    @property
    def ssl_context(self) -> ssl.SSLContext:
        """The context for the next connection; nats-py tries again after an `OSError`."""
        try:
            return self._tls.context()
        except BaseException:
            self._hang_up()
            raise

    def may_not_publish(self, subject: str) -> bool:
        """Whether the server has refused something on a subject, for want of permission."""
        return subject.lower() in self._denied

    def on_denied(self, subject: str, act: Callable[[], None]) -> Callable[[], None]:
        """Call `act` whenever the server refuses something on a subject, until what is returned is called."""
        entry = (subject.lower(), act)
        self._on_denied.append(entry)
        return lambda: self._on_denied.remove(entry)

    async def _process_headers(self, headers: bytes | None) -> dict[str, str] | None:
        """Whoever may publish can write any bytes there, and the server checks none: the message arrives without headers."""
        try:
            return await super()._process_headers(headers)  # pyright: ignore[reportUnknownMemberType]  # not annotated
        except (IndexError, ValueError):
            return {}

    def _build_message(
        self, sid: int, subject: bytes, reply: bytes, data: bytes, headers: dict[str, str] | None
    ) -> Msg:
        """The same goes for subjects and reply subjects: the server does not ask for UTF-8."""
        message: Msg = super()._build_message(sid, _in_utf8(subject), _in_utf8(reply), data, headers)
        return message

    async def _process_err(self, err_msg: str) -> None:
        denied = _DENIED.search(err_msg)
        if denied is not None:
            self._denied.add(denied[1])
            for subject, act in [*self._on_denied]:
                if subject == denied[1]:
                    act()
        await super()._process_err(err_msg)

    def _connect_command(self) -> bytes:
        """What is sent first, once the connection is encrypted if it is to be."""
        try:
            self._prepare()
        except BaseException:
            self._hang_up()
            raise
        return super()._connect_command()

    def _prepare(self) -> None:
        if self._encrypted and not self._is_encrypted():
            raise nats.errors.Error("the server offers no TLS, and this connection must be encrypted")
        try:
            identity = self._credentials.identity()
        except ValueError as error:
            raise nats.errors.Error(f"the credentials cannot be used: {error}") from None
        if identity is not None:
            self._auth_configured = True
            self._public_nkey = identity.public_key
            self._signature_cb = identity.sign
            jwt = identity.jwt
            self._user_jwt_cb = None if jwt is None else lambda: jwt

    def _hang_up(self) -> None:
        """nats-py would leave the socket open and open another one at its next try."""
        transport: Any = self._transport
        if transport is not None:
            transport.close()

    def _is_encrypted(self) -> bool:
        transport: Any = self._transport
        writer: Any = getattr(transport, "_io_writer", None)
        if writer is None:  # a WebSocket, encrypted when its URL says so
            return self._current_server is not None and self._current_server.uri.scheme == "wss"
        return writer.get_extra_info("ssl_object") is not None


def _in_utf8(subject: bytes) -> bytes:
    return subject if subject.isascii() else subject.decode(errors="backslashreplace").encode()
