"""NatsConnection: the connections of one application to a NATS broker, one for publishing and one for consuming."""

import asyncio
import contextlib
import ssl
from collections.abc import AsyncGenerator, Callable, Sequence
from typing import Any, Literal
from urllib.parse import SplitResult, unquote, urlsplit

from nats.aio.client import Client

from mediator.errors import PublisherUnavailableError, SettingError
from mediator.nats.link import RETRY_SECONDS, Link

Purpose = Literal["publish", "consume"]


class NatsConnection:
    """Up to two supervised clients, each connected at its first use and kept connected for ever.

    Publishing and consuming have a connection of their own, so that neither waits behind the other. Made by
    `open_connection`, which also closes it.

    Attributes:
        broker: The URLs without their secrets, for errors and logs.
    """

    def __init__(self, urls: Sequence[str], options: dict[str, Any], probe_interval: float) -> None:
        self.broker: str = ",".join(urls)
        self._closed = False
        hidden: list[str] = [options[name] for name in ("password", "token") if options.get(name)]

        def hide(text: str) -> str:
            for secret in hidden:
                text = text.replace(secret, "***")
            return text

        def link(purpose: Purpose) -> Link:
            return Link(purpose, list(urls), options, broker=self.broker, hide=hide, probe_interval=probe_interval)

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


@contextlib.asynccontextmanager
async def open_connection(
    url: str | Sequence[str],
    *,
    name: str = "mediator",
    user: str | None = None,
    password: str | None = None,
    token: str | None = None,
    user_credentials: str | None = None,
    nkeys_seed: str | None = None,
    tls: ssl.SSLContext | None = None,
    probe_interval: float = 5.0,
) -> AsyncGenerator[NatsConnection]:
    """Open a connection to NATS.

    For `async with open_connection(url) as connection:` and for `providers.Resource(open_connection, url)`. Returns at
    once; connecting happens in the background and never gives up. Leaving closes what was opened.

    Args:
        url: One URL or several (`nats://`, `tls://`), possibly with user and password or token.
        name: The name of the client, seen in the server's monitoring.
        user: The user, when it is not in the URL.
        password: The password of the user.
        token: The token, when the server asks for one.
        user_credentials: The path of a credentials file (needs `nats-py[nkeys]`).
        nkeys_seed: The path of a file with an nkey seed (needs `nats-py[nkeys]`).
        tls: The context of TLS connections.
        probe_interval: Seconds between two probes of an open connection.

    Raises:
        SettingError: A URL is not one.
    """
    urls = [url] if isinstance(url, str) else list(url)
    credentials = _credentials(urls, user=user, password=password, token=token)
    files = {"user_credentials": user_credentials, "nkeys_seed": nkeys_seed, "tls": tls}
    options = _OPTIONS | credentials | {"name": name} | _present(files)
    connection = NatsConnection(list(map(redacted, urls)), options, probe_interval)
    try:
        yield connection
    finally:
        await connection.close()


_SCHEMES = frozenset({"nats", "tls", "ws", "wss"})
_OPTIONS: dict[str, Any] = {
    "max_reconnect_attempts": -1,
    "reconnect_time_wait": RETRY_SECONDS,
    "connect_timeout": 2,
    "ping_interval": 10,
    "max_outstanding_pings": 2,
    "pending_size": -1,  # nothing is sent behind the back of a caller that was told it was not
    "drain_timeout": 10,
}


def redacted(url: str) -> str:
    """A URL without user, password and token."""
    scheme, separator, rest = url.partition("://")
    return f"{scheme}{separator}{rest.rpartition('@')[2]}" if separator else url.rpartition("@")[2]


def _present(options: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in options.items() if value is not None}


def _credentials(urls: Sequence[str], **given: str | None) -> dict[str, Any]:
    """What was given, else what is in the URLs, decoded as RFC 3986 has it; a user without password is a token."""
    if not urls:
        raise SettingError("url", urls, "give at least one")
    found = {_checked(url).netloc.rpartition("@")[0] for url in urls}
    if len(found) > 1:
        raise SettingError("url", [redacted(url) for url in urls], "give all of them the same user and password")
    if any(given.values()):
        return _present(given)
    user, separator, password = found.pop().partition(":")
    if not separator:
        return {"token": unquote(user)} if user else {}
    return {"user": unquote(user), "password": unquote(password)}


def _checked(url: str) -> SplitResult:
    problem = "write it as nats://host:port"
    try:
        parts = urlsplit(url if "://" in url else f"nats://{url}")
        valid = bool(parts.hostname) and parts.port != 0 and parts.scheme in _SCHEMES
    except ValueError:  # its text may show the password
        raise SettingError("url", redacted(url), problem) from None
    if not valid:
        raise SettingError("url", redacted(url), problem)
    return parts
