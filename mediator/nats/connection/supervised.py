"""SupervisedClient: connects a nats-py client in the background, and replaces or reconnects a client that fails.

nats-py closes a client permanently after most errors that the server reports. Therefore a `SupervisedClient` replaces a
closed client with a new client. nats-py's task that reads from the socket can end without a callback. Therefore a
`SupervisedClient` sends probes: requests that show whether the client still receives answers. nats-py's `flush()` and
`rtt()` are never used, because cancelling one of these calls ends the reading task.
"""

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import Any, cast

import nats.errors
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.aio.subscription import Subscription

from mediator.distributed.shield import finish
from mediator.errors import PublisherUnavailableError
from mediator.logger import Guard, Logger, RateLimitedLogger
from mediator.nats.connection.internals import abort, stop_sending
from mediator.owner import detached, start_detached
from mediator.printable import text_of

RETRY_SECONDS = 0.5
_PROBE_SUBJECT = "$JS.API.INFO"
_PROBE_SECONDS = 2.0
_CLOSE_SECONDS = 1.0
_UNSUBSCRIBE_SECONDS = 1.0
_STUCK_SECONDS = 15.0


class SupervisedClient:
    """Keeps one client connected.

    A probe is sent every `probe_interval` seconds. Two unanswered probes in a row force a reconnect.
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
        self._log = RateLimitedLogger(Logger(broker=broker, purpose=purpose))
        self._state = ""
        self._reason = "no connection yet"
        self._client: Client | None = None
        self._ready = asyncio.Event()
        self._client_closed = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._last_event = 0.0
        self._on_connect: list[Callable[[], None]] = []
        self._on_disconnect: list[Callable[[], None]] = []

    def start(self) -> None:
        """Start the task that connects in the background, unless the task was started before."""
        if self._task is None:
            self._state = ""
            self._task = start_detached(self._run(), name="mediator nats connection")

    async def client(self, timeout: float) -> Client:  # noqa: ASYNC109  # each caller chooses a time limit
        """Return the connected client; wait at most `timeout` seconds for a connection.

        Without a connection, a `PublisherUnavailableError` is raised.
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
        """Call `callback` after every connect and reconnect; return a function that removes `callback` again."""
        guarded = partial(Guard("a listener for the connection"), callback)
        self._on_connect.append(guarded)
        return lambda: self._on_connect.remove(guarded)

    def on_disconnect(self, callback: Callable[[], None]) -> Callable[[], None]:
        """Call `callback` whenever the connection is lost; return a function that removes `callback` again."""
        guarded = partial(Guard("a listener for the connection"), callback)
        self._on_disconnect.append(guarded)
        return lambda: self._on_disconnect.remove(guarded)

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
                self._set_connected(client)
                await self._watch(client)
            except Exception as error:  # whatever nats-py raises, the next client tries to connect
                self._reason = self._text(error)
            finally:
                self._set_disconnected()
                await _dispose(client)
            await asyncio.sleep(RETRY_SECONDS)

    def _callbacks(self) -> dict[str, Any]:

        async def on_disconnect() -> None:
            self._set_disconnected()

        async def on_reconnect() -> None:
            self._set_connected(self._client)

        async def on_close() -> None:
            self._client_closed.set()

        return {
            "error_cb": self._on_error,
            "disconnected_cb": on_disconnect,
            "reconnected_cb": on_reconnect,
            "closed_cb": on_close,
        }

    def _set_connected(self, client: Client | None) -> None:
        self._client = client
        self.epoch += 1
        self._probing = True  # the user's permissions may have changed since the last connect
        self._reason = "the connection was lost"
        self._ready.set()
        self._announce("connected")
        for callback in tuple(self._on_connect):
            callback()

    def _set_disconnected(self) -> None:
        if not self._ready.is_set():
            return
        self._ready.clear()
        self._last_event = time.monotonic()
        self._announce("disconnected")
        for callback in tuple(self._on_disconnect):
            callback()

    async def _on_error(self, error: Exception) -> None:
        self._last_event = time.monotonic()
        text = self._text(error)
        if isinstance(error, ConnectionResetError) and "authorization" in self._reason.lower():
            return  # the server closed the connection because of the credentials: keep this `_reason`
        if "permissions violation" in text.lower():
            if f'"{_PROBE_SUBJECT}"'.lower() in text.lower():  # nats-py passes the text on in lower case
                self._probing = False  # the user may not send probes
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
        return self._hide(text_of(error) or type(error).__name__)

    async def _watch(self, client: Client) -> None:
        failures = 0
        while not client.is_closed:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._probe_interval):
                    await self._client_closed.wait()
            if client.is_reconnecting:
                failures = 0
                if self._ready.is_set():  # without `abort`, nats-py would wait for a dead socket
                    abort(client)
                elif time.monotonic() - self._last_event > _STUCK_SECONDS:  # nats-py's reconnecting task has failed
                    return
            elif client.is_connected and self._probing:
                failures = 0 if await self._probe(client) else failures + 1
            if failures > 1 and client.is_connected:
                failures = 0
                self._reason = "the server does not answer"
                await client.force_reconnect()
                abort(client)

    async def _probe(self, client: Client) -> bool:
        try:
            await ask(client, _PROBE_SUBJECT, b"", min(_PROBE_SECONDS, self._probe_interval))
        except nats.errors.NoRespondersError:
            return True  # this is the answer of a server without JetStream
        except (nats.errors.Error, OSError):
            return not self._probing
        return True


async def ask(client: Client, subject: str, body: bytes, seconds: float) -> Msg:
    """Send a request and return the answer; wait at most `seconds`.

    nats-py's own timeout, an `asyncio.wait_for`, is not used: before Python 3.12, `wait_for` loses a cancellation that
    arrives together with the answer.

    Raises:
        nats.errors.Error: There was no answer, or nobody serves the subject.
    """
    try:
        async with asyncio.timeout(seconds):
            # detached: the first request starts a task for all answers, which must not keep this call's context
            return await detached(client.request(subject, body, timeout=cast("float", None)))
    except TimeoutError:
        raise nats.errors.TimeoutError from None


async def end(*tasks: asyncio.Task[None]) -> None:
    """Cancel tasks and wait until they have ended.

    The tasks are cancelled again every 0.2 s, because nats-py may swallow a cancellation.
    """
    pending = set(tasks)
    while pending:
        for task in pending:
            task.cancel()
        _, pending = await asyncio.wait(pending, timeout=0.2)


async def listen(
    client: Client, subject: str, callback: Callable[[Msg], Awaitable[None]], *, queue: str = ""
) -> Subscription:
    """Subscribe to a subject. nats-py calls `callback` with each message, in a task with an empty context."""
    subscribing = client.subscribe(subject, queue=queue, cb=callback)  # pyright: ignore[reportUnknownMemberType]  # a Future
    discarded: list[Subscription] = []
    try:
        return await detached(subscribing, discard=discarded.append)
    except asyncio.CancelledError:
        for subscription in discarded:
            await finish(subscription.unsubscribe(), _UNSUBSCRIBE_SECONDS)
        raise


async def withdraw(client: Client, subscriptions: Sequence[Subscription], seconds: float) -> None:
    """Unsubscribe at the server. For at most `seconds`, handle the messages that the server has already sent.

    nats-py's `drain` is not used, because `drain` calls `flush`, which must not be cancelled.
    """
    with contextlib.suppress(nats.errors.Error, OSError, TimeoutError):
        async with asyncio.timeout(seconds):
            for each in subscriptions:
                await stop_sending(client, each)
            # the answer to this request arrives after the messages that the server had already sent
            with contextlib.suppress(nats.errors.Error):
                await ask(client, _PROBE_SUBJECT, b"", seconds / 2)
            while any(each.pending_msgs for each in subscriptions):  # noqa: ASYNC110  # nats-py has no event for it
                await asyncio.sleep(0)
    for each in subscriptions:
        with contextlib.suppress(nats.errors.Error, OSError):
            await each.unsubscribe()


async def _dispose(client: Client) -> None:
    """Close a client that is no longer needed, whatever its state."""
    try:
        async with asyncio.timeout(_CLOSE_SECONDS):
            await client.close()
    except Exception:  # noqa: S110  # nats-py may raise any error here, and the client is no longer needed
        pass
    finally:
        abort(client)
    for _ in range(3):  # the client's cancelled tasks end in the next iterations of the event loop
        await asyncio.sleep(0)
