"""A connection whose client talks to the test instead of a server, for tests of times and of leftovers.

Everything happens on the clock of the loop. The test gives the answers of the server; no server is imitated.
"""

import asyncio
import fnmatch
import itertools
import json
from collections.abc import Awaitable, Callable
from typing import Any

import nats.errors
from nats.aio.msg import Msg

from mediator.errors import PublisherUnavailableError
from tests.unit.virtual_time import now

Answer = Callable[[str, bytes], Awaitable[dict[str, Any]]]


async def silent(_subject: str, _body: bytes) -> dict[str, Any]:
    """Never answer, as a silent server."""
    await asyncio.Event().wait()
    return {}


class OfflineSubscription:
    def __init__(self, client: "OfflineClient", number: int, subject: str, callback: Any, queue: str) -> None:
        self._id = number
        self._client = client
        self.subject = subject
        self.queue = queue
        self.callback = callback
        self.pending_msgs = 0

    async def unsubscribe(self) -> None:
        self._client.subscriptions.pop(self._id, None)


class OfflineClient:
    """Records each published message with its time; `answer` answers requests."""

    def __init__(self) -> None:
        self.max_payload = 1_000_000
        self.is_connected = True
        self.is_closed = False
        self.is_reconnecting = False
        self.subscriptions: dict[int, OfflineSubscription] = {}
        self.published: list[tuple[float, str, bytes, str, dict[str, str]]] = []
        self.requests: list[tuple[float, str]] = []
        self.answer: Answer = silent
        self.on_publish: Callable[[str, bytes, str, dict[str, str]], Awaitable[None]] | None = None
        self.error: Exception | None = None
        self.subscribe_error: Exception | None = None
        self._numbers = itertools.count(1)

    def new_inbox(self) -> str:
        return f"_INBOX.{next(self._numbers)}"

    async def subscribe(self, subject: str, queue: str = "", cb: Any = None) -> OfflineSubscription:
        await asyncio.sleep(0)
        if self.subscribe_error is not None:
            raise self.subscribe_error
        number = next(self._numbers)
        made = self.subscriptions[number] = OfflineSubscription(self, number, subject, cb, queue)
        return made

    async def publish(
        self, subject: str, payload: bytes = b"", reply: str = "", headers: dict[str, str] | None = None
    ) -> None:
        await asyncio.sleep(0)
        if self.error is not None:
            raise self.error
        self.published.append((now(), subject, payload, reply, headers or {}))
        if self.on_publish is not None:
            await self.on_publish(subject, payload, reply, headers or {})

    async def request(self, subject: str, payload: bytes = b"", timeout: float | None = None) -> Msg:
        del timeout
        self.requests.append((now(), subject))
        return Msg(_client=None, data=json.dumps(await self.answer(subject, payload)).encode())  # type: ignore[arg-type]

    async def deliver(
        self,
        subject: str,
        data: bytes = b"",
        *,
        headers: dict[str, str] | None = None,
        reply: str = "",
        published: str = "",
    ) -> bool:
        """Deliver a message; return whether anything subscribes to it. `published` is the subject of a stored message."""
        found = [each for each in self.subscriptions.values() if fnmatch.fnmatch(subject, each.subject)]
        for each in found:
            at = published or subject
            message = Msg(_client=None, subject=at, data=data, headers=headers, reply=reply)  # type: ignore[arg-type]
            await each.callback(message)
        return bool(found)

    async def _send_unsubscribe(self, number: int) -> None:
        self.subscriptions.pop(number, None)

    def sent_to(self, pattern: str) -> list[tuple[float, str, bytes, str, dict[str, str]]]:
        return [each for each in self.published if fnmatch.fnmatch(each[1], pattern)]


class OfflineConnection:
    """A `NatsConnection` that `lose` and `reconnect` control. When it is `closed`, its client raises that at once."""

    def __init__(self) -> None:
        self.broker = "nats://offline"
        self.current = OfflineClient()
        self.listeners: dict[str, list[Callable[[], None]]] = {"connect": [], "disconnect": []}
        self.asked: list[tuple[float, float]] = []
        self.closed = False
        self._epoch = 1
        self._ready = asyncio.Event()
        self._ready.set()

    async def client(self, _purpose: str, *, timeout: float) -> OfflineClient:
        self.asked.append((now(), timeout))
        if self.closed:
            raise PublisherUnavailableError(self.broker, "the connection was closed")
        try:
            async with asyncio.timeout(timeout):
                await self._ready.wait()
        except TimeoutError:
            raise PublisherUnavailableError(self.broker, "no connection yet") from None
        return self.current

    def epoch(self, _purpose: str) -> int:
        return self._epoch

    def on_connect(self, _purpose: str, callback: Callable[[], None]) -> Callable[[], None]:
        return self._listen("connect", callback)

    def on_disconnect(self, _purpose: str, callback: Callable[[], None]) -> Callable[[], None]:
        return self._listen("disconnect", callback)

    def _listen(self, what: str, callback: Callable[[], None]) -> Callable[[], None]:
        self.listeners[what].append(callback)
        return lambda: self.listeners[what].remove(callback)

    def lose(self) -> None:
        self._ready.clear()
        self.current.is_connected = False
        self.current.error = nats.errors.ConnectionClosedError()
        for callback in tuple(self.listeners["disconnect"]):
            callback()

    def reconnect(self, *, client: OfflineClient | None = None) -> None:
        """Reconnect with another client, or with the same one, which keeps its subscriptions."""
        self.current = client or self.current
        self.current.is_connected, self.current.error = True, None
        self._epoch += 1
        self._ready.set()
        for callback in tuple(self.listeners["connect"]):
            callback()

    def counts(self) -> tuple[int, int, int]:
        """Return how many listeners and how many subscriptions there are."""
        return len(self.listeners["connect"]), len(self.listeners["disconnect"]), len(self.current.subscriptions)
