"""NatsConnection: the connections of one application to a NATS broker, one for publishing and one for consuming."""

import asyncio
import contextlib
import ssl
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Any, Literal
from urllib.parse import quote

from nats.aio.client import Client

from mediator.errors import PublisherUnavailableError
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
        self, addresses: Addresses, credentials: Credentials, tls: Tls, *, name: str, probe_interval: float
    ) -> None:
        self.broker: str = ",".join(addresses.urls)
        self._closed = False
        options = _OPTIONS | {"name": name} | credentials.options() | tls.options()
        hidden = sorted({*credentials.secrets, *map(quote, credentials.secrets)}, key=len, reverse=True)

        def hide(text: str) -> str:
            for secret in hidden:
                text = text.replace(secret, "***")
            return text

        def make() -> Client:
            return AuthenticatedClient(credentials, tls, encrypted=tls.is_given or addresses.encrypted)

        def link(purpose: Purpose) -> Link:
            return Link(
                purpose,
                addresses.urls,
                make,
                options,
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
    addresses = Addresses((url,) if isinstance(url, str) else tuple(url))
    beside = Credentials(user, password, token, user_credentials, nkeys_seed)
    encryption = Tls(tls, tls_ca, tls_certificate, tls_key, tls_key_password, tls_hostname, tls_handshake_first)
    del url, user, password, token, tls_key_password  # a traceback that shows local variables would show them
    addresses.check()
    credentials = addresses.complete(beside)
    credentials.check()
    encryption.check()
    return _opened(NatsConnection(addresses, credentials, encryption, name=name, probe_interval=probe_interval))


@contextlib.asynccontextmanager
async def _opened(connection: NatsConnection) -> AsyncGenerator[NatsConnection]:
    try:
        yield connection
    finally:
        await connection.close()


_OPTIONS: dict[str, Any] = {
    "max_reconnect_attempts": -1,
    "reconnect_time_wait": RETRY_SECONDS,
    "connect_timeout": 2,
    "ping_interval": 10,
    "max_outstanding_pings": 2,
    "pending_size": -1,  # nothing is sent behind the back of a caller that was told it was not
    "drain_timeout": 10,
}
