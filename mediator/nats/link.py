"""Link: one nats-py client under supervision, which connects in the background and reconnects for ever.

nats-py closes a client for good on most errors that the server reports, and its reader can die without any callback.
The link builds a new client when one was closed, and probes it with requests (never with `flush()` or `rtt()`, whose
cancellation kills the reader).
"""

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, cast

import nats.errors
import structlog
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.aio.subscription import Subscription

from mediator.errors import PublisherUnavailableError

RETRY_SECONDS = 0.5
_PROBE_SUBJECT = "$JS.API.INFO"
_PROBE_SECONDS = 2.0
_CLOSE_SECONDS = 1.0
_STUCK_SECONDS = 15.0


class Link:
    """Keeps one client connected.

    Args:
        purpose: What the client is for, for logs.
        servers: The URLs to connect to.
        make: Makes a client.
        options: Further options of nats-py's `connect`.
        broker: The redacted URLs, for errors and logs.
        hide: Removes secrets from a text.
        probe_interval: Seconds between two probes; two that fail in a row force a reconnect.
    """

    def __init__(
        self,
        purpose: str,
        servers: list[str],
        make: Callable[[], Client],
        options: dict[str, Any],
        *,
        broker: str,
        hide: Callable[[str], str],
        probe_interval: float,
    ) -> None:
        self.epoch: int = 0
        self._servers = servers
        self._make = make
        self._options = options
        self._broker = broker
        self._hide = hide
        self._probe_interval = probe_interval
        self._probing = True
        self._log: structlog.stdlib.BoundLogger = structlog.get_logger("mediator").bind(broker=broker, purpose=purpose)
        self._state = ""
        self._reason = "no connection yet"
        self._client: Client | None = None
        self._ready = asyncio.Event()
        self._client_closed = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._heard = 0.0
        self._on_connect: list[Callable[[], None]] = []
        self._on_disconnect: list[Callable[[], None]] = []

    def start(self) -> None:
        """Begin to connect, unless that was done before."""
        if self._task is None:
            self._state = ""
            self._task = asyncio.create_task(self._run(), name="mediator nats link")

    async def client(self, timeout: float) -> Client:  # noqa: ASYNC109  # the bound is part of the promise
        """The connected client, waited for at most `timeout` seconds.

        Raises:
            PublisherUnavailableError: There is no connection yet.
        """
        self.start()
        try:
            async with asyncio.timeout(timeout):
                await self._ready.wait()
        except TimeoutError:
            raise PublisherUnavailableError(self._broker, self._reason) from None
        if self._client is None:
            raise PublisherUnavailableError(self._broker, self._reason)
        return self._client

    def on_connect(self, callback: Callable[[], None]) -> Callable[[], None]:
        """Call back after every connect and reconnect; returns what ends that."""
        self._on_connect.append(callback)
        return lambda: self._on_connect.remove(callback)

    def on_disconnect(self, callback: Callable[[], None]) -> Callable[[], None]:
        """Call back when the connection is lost; returns what ends that."""
        self._on_disconnect.append(callback)
        return lambda: self._on_disconnect.remove(callback)

    async def close(self) -> None:
        """Stop connecting and close the client, within about a second."""
        task, self._task = self._task, None
        if task is not None:
            self._reason = "closed"
            self._announce("closed")
            await end(task)

    async def _run(self) -> None:
        while True:
            client = self._make()
            self._client_closed.clear()
            try:
                await client.connect(self._servers, **self._options, **self._callbacks())
                self._up(client)
                await self._watch(client)
            except Exception as error:  # whatever nats-py stumbles over, a new client tries again
                self._reason = self._text(error)
            finally:
                self._down()
                await _dispose(client)
            await asyncio.sleep(RETRY_SECONDS)

    def _callbacks(self) -> dict[str, Any]:
        async def on_error(error: Exception) -> None:
            self._note(error)

        async def on_disconnect() -> None:
            self._down()

        async def on_reconnect() -> None:
            self._up(self._client)

        async def on_close() -> None:
            self._client_closed.set()

        return {
            "error_cb": on_error,
            "disconnected_cb": on_disconnect,
            "reconnected_cb": on_reconnect,
            "closed_cb": on_close,
        }

    def _up(self, client: Client | None) -> None:
        self._client = client
        self.epoch += 1
        self._reason = "the connection was lost"
        self._ready.set()
        self._announce("connected")
        for callback in tuple(self._on_connect):
            callback()

    def _down(self) -> None:
        if not self._ready.is_set():
            return
        self._ready.clear()
        self._heard = time.monotonic()
        self._announce("disconnected")
        for callback in tuple(self._on_disconnect):
            callback()

    def _note(self, error: Exception) -> None:
        self._heard = time.monotonic()
        text = self._text(error)
        if isinstance(error, ConnectionResetError) and "authorization" in self._reason.lower():
            return  # a server that refuses the credentials says so only now and then before it hangs up
        if "permissions violation" in text.lower():
            if f'"{_PROBE_SUBJECT}"'.lower() in text.lower():  # nats-py passes it on in lower case
                self._probing = False  # not allowed to ask is not the same as no answer
            if text != self._reason:
                self._log.warning("refused by the broker", reason=text)
        self._reason = text
        if not self._state:
            self._announce("disconnected")

    def _announce(self, state: str) -> None:
        if self._state in {state, "closed"}:
            return
        self._state = state
        if state in {"connected", "closed"}:
            self._log.info(state)
        else:
            self._log.warning(state, reason=self._reason)

    def _text(self, error: Exception) -> str:
        return self._hide(str(error) or type(error).__name__)

    async def _watch(self, client: Client) -> None:
        failures = 0
        while not client.is_closed:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._probe_interval):
                    await self._client_closed.wait()
            if client.is_reconnecting:
                failures = 0
                if self._ready.is_set():  # nats-py waits for a dead socket to take its last bytes
                    _abort(client)
                elif time.monotonic() - self._heard > _STUCK_SECONDS:  # its reconnecting task has died
                    return
            elif client.is_connected and self._probing:
                failures = 0 if await self._answers(client) else failures + 1
            if failures > 1 and client.is_connected:
                failures = 0
                self._reason = "the server does not answer"
                await client.force_reconnect()
                _abort(client)

    async def _answers(self, client: Client) -> bool:
        try:
            await ask(client, _PROBE_SUBJECT, b"", min(_PROBE_SECONDS, self._probe_interval))
        except nats.errors.NoRespondersError:
            return True  # a server without JetStream answers too
        except (nats.errors.Error, OSError):
            return not self._probing
        return True


async def ask(client: Client, subject: str, body: bytes, seconds: float) -> Msg:
    """The answer to a request, waited for at most so many seconds.

    The timeout of nats-py is not used: before Python 3.12 `wait_for` forgets a cancellation that comes together with the
    answer.

    Raises:
        nats.errors.Error: There was no answer, or nobody to give one.
    """
    try:
        async with asyncio.timeout(seconds):
            return await client.request(subject, body, timeout=cast("float", None))
    except TimeoutError:
        raise nats.errors.TimeoutError from None


async def end(*tasks: asyncio.Task[None]) -> None:
    """Cancel tasks until they end: nats-py swallows a cancellation now and then."""
    pending = set(tasks)
    while pending:
        for task in pending:
            task.cancel()
        _, pending = await asyncio.wait(pending, timeout=0.2)


async def listen(client: Client, subject: str, callback: Callable[[Msg], Awaitable[None]]) -> Subscription:
    """Have every message on a subject passed to a callback."""
    return await client.subscribe(subject, cb=callback)  # pyright: ignore[reportUnknownMemberType]  # an untyped Future


async def withdraw(client: Client, subscriptions: Sequence[Subscription], seconds: float) -> None:
    """Stop listening, and still take what is on its way; at most so many seconds.

    nats-py has no public way: `unsubscribe` drops what arrives after it, and `drain` waits for a `flush`, which must not
    be given a deadline.
    """
    with contextlib.suppress(nats.errors.Error, OSError, TimeoutError):
        async with asyncio.timeout(seconds):
            for each in subscriptions:
                await client._send_unsubscribe(each._id)  # noqa: SLF001  # pyright: ignore[reportPrivateUsage]  # see above
            # what was sent before the server knew arrives before the answer to this request
            with contextlib.suppress(nats.errors.Error):
                await ask(client, _PROBE_SUBJECT, b"", seconds / 2)
            while any(each.pending_msgs for each in subscriptions):  # noqa: ASYNC110  # nats-py has no event for it
                await asyncio.sleep(0)
    for each in subscriptions:
        with contextlib.suppress(nats.errors.Error, OSError):
            await each.unsubscribe()


async def _dispose(client: Client) -> None:
    """Close a client for good, whatever state it is in."""
    try:
        async with asyncio.timeout(_CLOSE_SECONDS):
            await client.close()
    except Exception:  # noqa: S110  # nats-py raises raw socket errors here, and nobody needs the client any more
        pass
    finally:
        _abort(client)
    for _ in range(3):  # its cancelled tasks end in the next rounds of the loop
        await asyncio.sleep(0)


def _abort(client: Client) -> None:
    """Drop the socket of a client at once. nats-py has no public way: its `close` waits for the socket to drain."""
    transport: Any = getattr(client, "_transport", None)
    for name in ("_io_writer", "_bare_io_writer"):
        writer: Any = getattr(transport, name, None)
        if writer is not None:
            writer.transport.abort()
