"""NatsConnection: the connections of one application to a NATS broker, one for publishing and one for consuming.

Each connection has a client that reads the credentials again at every connect and reconnect. nats-py's own
authentication is not used. nats-py keeps the public key of the first connect, and hangs on a credentials file without a
JWT. When the server does not offer TLS, nats-py sends the password unencrypted.
"""

import asyncio
import re
import ssl
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Any, Literal

import nats.errors
from nats.aio.client import Client

from mediator.blocks import asynccontextmanager
from mediator.errors import PublisherUnavailableError
from mediator.nats.connection.credentials import Addresses, Credentials, Tls
from mediator.nats.connection.internals import HookedClient
from mediator.nats.connection.supervised import RETRY_SECONDS, SupervisedClient
from mediator.nats.subjects import checked_inbox_prefix
from mediator.owner import Owner
from mediator.secret import hiding, secretly
from mediator.settings import check_positive

_API = "$js.api."
_DENIED = re.compile(r'permissions violation for publish to "(\S+)"')  # nats-py passes the text on in lower case


class AuthenticatedClient(HookedClient):
    """A client that authenticates to the server, and reports the subjects on which the client may not publish.

    With `encrypted`, the client disconnects from a server that offers no TLS.
    """

    def __init__(self, credentials: Credentials, tls: Tls, *, encrypted: bool) -> None:
        super().__init__()
        self._encrypted = encrypted
        self._denied: set[str] = set()
        self._on_denied: list[tuple[str, Callable[[], None]]] = []
        self._on_any_denied: list[Callable[[str], None]] = []
        self._credentials = credentials
        self._tls = tls

    @property
    def ssl_context(self) -> ssl.SSLContext:
        """The TLS context for the next connection. When a file cannot be read, nats-py tries to connect again."""
        try:
            return self._tls.context()
        except BaseException:
            self.hang_up()
            raise

    def may_not_publish(self, subject: str) -> bool:
        """Return whether the server has refused a message on this JetStream API subject since the last connect."""
        return subject.lower() in self._denied

    def on_denied(self, subject: str, act: Callable[[], None]) -> Callable[[], None]:
        """Call `act` whenever the server refuses a message on `subject`; return a function that removes `act`."""
        entry = (subject.lower(), act)
        self._on_denied.append(entry)
        return lambda: self._on_denied.remove(entry)

    def on_any_denied(self, act: Callable[[str], None]) -> None:
        """Call `act` with the subject, in lower case, whenever the server refuses a message."""
        self._on_any_denied.append(act)

    def refused(self, reason: str) -> None:
        """Call the listeners if `reason`, the text of an error, says that the server has refused a message."""
        denied = _DENIED.search(reason)
        if denied is not None:
            if denied[1].startswith(_API):  # if inboxes were added, too, the set would grow without limit
                self._denied.add(denied[1])
            for subject, act in [*self._on_denied]:
                if subject == denied[1]:
                    act()
            for act_on_any in self._on_any_denied:
                act_on_any(denied[1])

    def before_connect(self) -> None:
        """Read the credentials again. Raise an error if the connection is not encrypted and must be encrypted."""
        self._denied.clear()  # the permissions may have changed since the last connect
        if self._encrypted and not self.is_encrypted:
            raise nats.errors.Error("the server offers no TLS, and this connection must be encrypted")
        try:
            identity = self._credentials.identity()
        except ValueError as error:
            raise nats.errors.Error(f"the credentials cannot be used: {error}") from None
        if identity is not None:
            self.prove(identity.public_key, identity.sign, identity.jwt)


Purpose = Literal["publish", "consume"]

_PATIENCE = 5.0
_PAUSE = 0.1


class NatsConnection:
    """The connections of one application to a broker. `open_connection` creates and closes this object.

    Publishing and consuming have separate connections, and do not wait for each other. Each connection is opened at its
    first use and restored after failures.

    Attributes:
        broker: The URLs without their secrets, for errors and logs.
    """

    def __init__(
        self, addresses: Addresses, credentials: Credentials, tls: Tls, options: dict[str, str], probe_interval: float
    ) -> None:
        self.broker: str = ",".join(addresses.urls)
        self._closed = False
        self._owner = Owner(f"The connection to {self.broker}")
        all_options = _OPTIONS | options | credentials.options() | tls.options()
        hide = hiding(credentials.secrets)

        def make() -> Client:
            return AuthenticatedClient(credentials, tls, encrypted=tls.is_given or addresses.encrypted)

        self._clients: dict[Purpose, SupervisedClient] = {
            purpose: SupervisedClient(
                purpose, addresses.urls, make, all_options, broker=self.broker, hide=hide, probe_interval=probe_interval
            )
            for purpose in ("publish", "consume")
        }

    def __repr__(self) -> str:
        return f"<NatsConnection {self.broker}>"

    async def client(self, purpose: Purpose, *, timeout: float) -> Client:  # noqa: ASYNC109  # part of the promise
        """Return the connected client for a purpose; wait at most `timeout` seconds for a connection.

        Raises:
            PublisherUnavailableError: There is no connection yet, or this `NatsConnection` was closed.
            MisuseError: The connection belongs to another event loop or process.
        """
        if self._closed:
            raise PublisherUnavailableError(self.broker, "the connection was closed")
        self._owner.check(moves=False)
        return await self._clients[purpose].client(timeout)

    def epoch(self, purpose: Purpose) -> int:
        """Return a number that grows with every connect and reconnect."""
        return self._clients[purpose].epoch

    def on_connect(self, purpose: Purpose, callback: Callable[[], None]) -> Callable[[], None]:
        """Call `callback` after every connect and reconnect; return a function that removes `callback` again."""
        return self._clients[purpose].on_connect(callback)

    def on_disconnect(self, purpose: Purpose, callback: Callable[[], None]) -> Callable[[], None]:
        """Call `callback` whenever the connection is lost; return a function that removes `callback` again."""
        return self._clients[purpose].on_disconnect(callback)

    async def close(self) -> None:
        """Close both clients within 2 s, whatever state they are in."""
        if self._owner.is_elsewhere:
            self._closed = True  # the clients' tasks ended with their event loop, or belong to another process
            return
        self._owner.check(moves=False)
        self._closed = True
        await asyncio.gather(*(client.close() for client in self._clients.values()))


async def keep_subscribed(
    connection: NatsConnection, purpose: Purpose, subscribe: Callable[[Client], Awaitable[None]]
) -> None:
    """Call `subscribe` with the client after every connect and reconnect, until cancelled.

    After a reconnect, `subscribe` may get the same client again. This client has kept its subscriptions.
    """
    connected = asyncio.Event()
    forget = connection.on_connect(purpose, connected.set)
    try:
        while True:
            try:
                client = await connection.client(purpose, timeout=_PATIENCE)
                connected.clear()
                await subscribe(client)
            except (PublisherUnavailableError, nats.errors.Error, OSError):  # the connection has logged the error
                await asyncio.sleep(_PAUSE)
            else:
                await connected.wait()
    finally:
        forget()


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

    Use it as `async with open_connection(url) as connection:` or `providers.Resource(open_connection, url)`. Entering
    the block does not wait for the broker: the connection is made in the background, with as many attempts as
    necessary. Leaving the block closes the connection.

    Files are checked at once, and read again at every connect. Credentials and certificates can thus be replaced while
    the application runs. An empty text counts as no value, so that options can come from environment variables.
    When a TLS option or a `tls://` URL is given, a server that does not encrypt is never used.

    Args:
        url: One URL or several (`nats://`, `tls://`), possibly with user and password or token, percent-encoded.
        name: The name of the client in the server's monitoring.
        inbox_prefix: The first tokens of all inboxes, for a user that may subscribe only to inboxes with this prefix.
        user: The user, unless the URL has a user.
        password: The password of the user. The user may be in the URL.
        token: The token, if the server requires a token.
        user_credentials: The path of a credentials file, with a JWT and a seed (needs `mediator-uow[nkeys]`).
        nkeys_seed: The path of a file with an nkey seed (needs `mediator-uow[nkeys]`).
        tls: The context for TLS connections, as an alternative to files.
        tls_ca: The path of a file with the trusted certificates. By default, the system's certificates are trusted.
        tls_certificate: The path of a PEM file with a client certificate, followed by the intermediate certificates.
        tls_key: The path of the client certificate's private key, unless the certificate's file holds the key.
        tls_key_password: The password of the private key.
        tls_hostname: The name in the server's certificate, when the name differs from the host in the URL.
        tls_handshake_first: Whether the server uses TLS from the first byte.
        probe_interval: Seconds between two requests that test whether an open connection works.

    Raises:
        SettingError: A URL is not valid, or a file cannot be used. The error shows no secret.
    """
    addresses = Addresses(url)
    given = Credentials(user, password, token, user_credentials, nkeys_seed)
    encryption = Tls(tls, tls_ca, tls_certificate, tls_key, tls_key_password, tls_hostname, tls_handshake_first)
    del url, user, password, token, tls_key_password  # keep the secrets out of tracebacks that show local variables
    checked_inbox_prefix(inbox_prefix)
    check_positive(probe_interval=probe_interval)
    options = {"name": name, "inbox_prefix": inbox_prefix}
    with secretly():
        addresses.check()
        credentials = addresses.complete(given)
        credentials.check()
        encryption.check()
        return _opened(NatsConnection(addresses, credentials, encryption, options, probe_interval))


@asynccontextmanager
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
    "pending_size": -1,  # no buffer: a message whose `publish` failed must not be sent later
    "drain_timeout": 10,
}
