"""NatsConnection: the connections of one application to a NATS broker, one for publishing and one for consuming."""

import asyncio
import contextlib
import re
import ssl
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Any, Literal
from urllib.parse import quote

from nats.aio.client import Client

from mediator.errors import PublisherUnavailableError, SettingError
from mediator.nats.addresses import Addresses
from mediator.nats.client import AuthenticatedClient
from mediator.nats.credentials import Credentials
from mediator.nats.link import RETRY_SECONDS, Link
from mediator.nats.tls import Tls

Purpose = Literal["publish", "consume"]


class NatsConnection:
    """Up to two supervised clients, each connected at its first use and kept connected for ever.

    Publishing and consuming have a connection of their own, so that neither waits behind the other. Made by
    `open_connection`, which also closes it.

    Attributes:
        broker: The URLs without their secrets, for errors and logs.
    """

    def __init__(
        self, addresses: Addresses, credentials: Credentials, tls: Tls, options: dict[str, str], probe_interval: float
    ) -> None:
        self.broker: str = ",".join(addresses.urls)
        self._closed = False
        all_options = _OPTIONS | options | credentials.options() | tls.options()
        hidden = [re.escape(secret) for each in credentials.secrets for secret in (each, quote(each, safe=""))]
        secret = re.compile(rf"(?<!\w)(?:{'|'.join(hidden)})(?!\w)")

        def hide(text: str) -> str:
            return secret.sub("***", text) if hidden else text

        def make() -> Client:
            return AuthenticatedClient(credentials, tls, encrypted=tls.is_given or addresses.encrypted)

        def link(purpose: Purpose) -> Link:
            return Link(
                purpose,
                addresses.urls,
                make,
                all_options,
                broker=self.broker,
                hide=hide,
                probe_interval=probe_interval,
            )

        self._links: dict[Purpose, Link] = {"publish": link("publish"), "consume": link("consume")}

    def __repr__(self) -> str:
        return f"<NatsConnection {self.broker}>"

    async def client(self, purpose: Purpose, *, timeout: float) -> Client:  # noqa: ASYNC109  # part of the promise
        """The connected client for a purpose, waited for at most `timeout` seconds.

        Raises:
            PublisherUnavailableError: There is no connection yet, or it was closed.
        """
        if self._closed:
            raise PublisherUnavailableError(self.broker, "the connection was closed")
        return await self._links[purpose].client(timeout)

    def epoch(self, purpose: Purpose) -> int:
        """A number that grows with every connect and reconnect."""
        return self._links[purpose].epoch

    def on_connect(self, purpose: Purpose, callback: Callable[[], None]) -> Callable[[], None]:
        """Call back after every connect and reconnect; returns what ends that."""
        return self._links[purpose].on_connect(callback)

    def on_disconnect(self, purpose: Purpose, callback: Callable[[], None]) -> Callable[[], None]:
        """Call back when the connection is lost; returns what ends that."""
        return self._links[purpose].on_disconnect(callback)

    async def close(self) -> None:
        """Close both clients, within 2 s, whatever state they are in."""
        self._closed = True
        await asyncio.gather(*(link.close() for link in self._links.values()))


def open_connection(
    url: str | Sequence[str],
    *,
    name: str = "mediator",
    inbox_prefix: str = "_INBOX",
    user: str | None = None,
    password: str | None = None,
    token: str | None = None,
    user_credentials: str | None = None,
    nkeys_seed: str | None = None,
    tls: ssl.SSLContext | None = None,
    tls_ca: str | None = None,
    tls_certificate: str | None = None,
    tls_key: str | None = None,
    tls_key_password: str | None = None,
    tls_hostname: str | None = None,
    tls_handshake_first: bool = False,
    probe_interval: float = 5.0,
) -> AbstractAsyncContextManager[NatsConnection]:
    """Open a connection to NATS.

    For `async with open_connection(url) as connection:` and for `providers.Resource(open_connection, url)`. Entering
    returns at once; connecting happens in the background and never gives up. Leaving closes what was opened.

    Files are checked at once and read again at every connect, so credentials and certificates can be replaced while the
    application runs. An empty text is no value, so that options can come from environment variables. A connection that
    was given anything of TLS, or a URL `tls://`, never speaks to a server that does not encrypt.

    Args:
        url: One URL or several (`nats://`, `tls://`), possibly with user and password or token, percent-encoded.
        name: The name of the client, seen in the server's monitoring.
        inbox_prefix: The subjects on which answers come, for users that may only subscribe to their own.
        user: The user, when it is not in the URL.
        password: The password of the user; the user may be in the URL.
        token: The token, when the server asks for one.
        user_credentials: The path of a credentials file, with a JWT and a seed (needs `mediator[nkeys]`).
        nkeys_seed: The path of a file with an nkey seed (needs `mediator[nkeys]`).
        tls: The context of TLS connections, instead of files.
        tls_ca: The path of the certificates that are trusted; without it, those that the system trusts.
        tls_certificate: The path of a client certificate, followed by those in between, in PEM format.
        tls_key: The path of its private key, when it is not in the same file.
        tls_key_password: The password of the private key.
        tls_hostname: The name in the server's certificate, when it is not the one in the URL.
        tls_handshake_first: Whether the server speaks TLS from the first byte.
        probe_interval: Seconds between two probes of an open connection.

    Raises:
        SettingError: A URL is not one, or a file cannot be used. It shows no secret.
    """
    addresses = Addresses((url,) if isinstance(url, str) else tuple(url or ()))  # None: a setting that is missing
    beside = Credentials(user, password, token, user_credentials, nkeys_seed)
    encryption = Tls(tls, tls_ca, tls_certificate, tls_key, tls_key_password, tls_hostname, tls_handshake_first)
    del url, user, password, token, tls_key_password  # a traceback that shows local variables would show them
    if not _INBOX.fullmatch(inbox_prefix):
        raise SettingError("inbox_prefix", inbox_prefix, "use tokens of letters, digits, hyphens and underscores")
    addresses.check()
    credentials = addresses.complete(beside)
    credentials.check()
    encryption.check()
    options = {"name": name, "inbox_prefix": inbox_prefix}
    return _opened(NatsConnection(addresses, credentials, encryption, options, probe_interval))


@contextlib.asynccontextmanager
async def _opened(connection: NatsConnection) -> AsyncGenerator[NatsConnection]:
    try:
        yield connection
    finally:
        await connection.close()


_INBOX = re.compile(r"[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)*")
_OPTIONS: dict[str, Any] = {
    "max_reconnect_attempts": -1,
    "reconnect_time_wait": RETRY_SECONDS,
    "connect_timeout": 2,
    "ping_interval": 10,
    "max_outstanding_pings": 2,
    "pending_size": -1,  # nothing is sent behind the back of a caller that was told it was not
    "drain_timeout": 10,
}
