"""RawStream: a JetStream stream that tests use by API requests, as the library does, but without the library."""

import asyncio
import json
from collections.abc import Mapping
from typing import Any

from nats.aio.client import Client
from nats.aio.msg import Msg

SECOND = 1_000_000_000
"""Durations of the API are in nanoseconds."""


class RawStream:
    """A stream of the subjects `<name>.>`. By default it remembers message ids for two minutes.

    Args:
        client: A connected client.
        name: The name of the stream.
    """

    def __init__(self, client: Client, name: str) -> None:
        self.client = client
        self.name = name

    async def api(self, operation: str, body: object = None) -> dict[str, Any]:
        """Return the answer to an API request, also if the answer is an error."""
        data = b"" if body is None else json.dumps(body).encode()
        answer: dict[str, Any] = json.loads((await self.client.request(f"$JS.API.{operation}", data, timeout=10)).data)
        return answer

    async def create(self, **config: object) -> None:
        wanted = {"name": self.name, "subjects": [f"{self.name}.>"], "storage": "file", "allow_direct": True}
        answer = await self.api(f"STREAM.CREATE.{self.name}", wanted | config)
        assert "error" not in answer, answer

    async def state(self) -> dict[str, Any]:
        state: dict[str, Any] = (await self.api(f"STREAM.INFO.{self.name}"))["state"]
        return state

    async def send(self, data: str = "", subject: str = "a", **headers: str) -> dict[str, Any]:
        """Publish a message and return its acknowledgement or refusal. `Nats_Msg_Id=` sets the header `Nats-Msg-Id`."""
        return await self.send_with({name.replace("_", "-"): value for name, value in headers.items()}, data, subject)

    async def send_with(self, headers: Mapping[str, str], data: str = "", subject: str = "a") -> dict[str, Any]:
        message = await self.client.request(
            f"{self.name}.{subject}", data.encode(), timeout=10, headers=dict(headers) or None
        )
        answer: dict[str, Any] = json.loads(message.data) if message.data else {}
        return answer

    async def consumer(self, name: str = "c", action: str = "", **config: object) -> dict[str, Any]:
        """Create or update a durable consumer with explicit acknowledgements, and return the answer of the server."""
        wanted = {"name": name, "durable_name": name, "deliver_policy": "all", "ack_policy": "explicit"} | config
        body = {"stream_name": self.name, "config": wanted, "action": action}
        answer = await self.api(f"CONSUMER.CREATE.{self.name}.{name}", body)
        assert "error" not in answer, answer
        return answer

    async def consumer_info(self, name: str = "c") -> dict[str, Any]:
        return await self.api(f"CONSUMER.INFO.{self.name}.{name}")

    async def pulls(self, name: str = "c") -> "Pulls":
        """Open an inbox for the answers to pull requests to a consumer."""
        inbox = self.client.new_inbox()
        pulls = Pulls(self.client, f"$JS.API.CONSUMER.MSG.NEXT.{self.name}.{name}", inbox)
        await self.client.subscribe(inbox, cb=pulls.arrived)
        return pulls


class Pulls:
    """The messages and statuses that answer the pull requests of one inbox, in order."""

    def __init__(self, client: Client, subject: str, inbox: str) -> None:
        self._client = client
        self._subject = subject
        self._inbox = inbox
        self._messages: asyncio.Queue[Msg] = asyncio.Queue()

    async def arrived(self, message: Msg) -> None:
        self._messages.put_nowait(message)

    async def ask(self, batch: int = 1, expires: float = 5.0, **options: object) -> None:
        body = {"batch": batch, "expires": round(expires * SECOND)} | options
        await self._client.publish(self._subject, json.dumps(body).encode(), self._inbox)

    async def next(self, seconds: float = 10.0) -> Msg:
        """Return the next message or status."""
        async with asyncio.timeout(seconds):
            return await self._messages.get()

    async def take(self) -> Msg:
        """Request one message and wait for it."""
        await self.ask()
        return await self.next()

    async def is_quiet(self) -> bool:
        """Return whether the inbox is empty after the server has handled all earlier requests."""
        await self._client.request("$JS.API.INFO", timeout=10)
        return self._messages.empty()


def place(message: Msg) -> tuple[int, int, int]:
    """Return the delivery count of a message, its stream sequence and its consumer sequence."""
    delivered, sequence, consumed = message.reply.split(".")[4:7]
    return int(delivered), int(sequence), int(consumed)


def status(message: Msg) -> tuple[str, str]:
    """Return the code and the text of a status."""
    headers = message.headers or {}
    return headers.get("Status", ""), headers.get("Description", "")
