"""RawStream: a JetStream stream, spoken to as the product does, by requests to the API, and without the product."""

import asyncio
import json
from collections.abc import Mapping
from typing import Any

from nats.aio.client import Client
from nats.aio.msg import Msg

SECOND = 1_000_000_000
"""Durations of the API are in nanoseconds."""


class RawStream:
    """Takes what is sent to `<name>.>`, with ids for two minutes unless told otherwise.

    Args:
        client: A connected client.
        name: Of the stream.
    """

    def __init__(self, client: Client, name: str) -> None:
        self.client = client
        self.name = name

    async def api(self, operation: str, body: object = None) -> dict[str, Any]:
        """The answer to a request, errors too."""
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
        """The acknowledgement of a message, or its refusal; underscores in names of headers stand for hyphens."""
        return await self.send_with({name.replace("_", "-"): value for name, value in headers.items()}, data, subject)

    async def send_with(self, headers: Mapping[str, str], data: str = "", subject: str = "a") -> dict[str, Any]:
        message = await self.client.request(
            f"{self.name}.{subject}", data.encode(), timeout=10, headers=dict(headers) or None
        )
        answer: dict[str, Any] = json.loads(message.data) if message.data else {}
        return answer

    async def consumer(self, name: str = "c", action: str = "", **config: object) -> dict[str, Any]:
        """Create or update a durable consumer with explicit acknowledgements; what the server says of it."""
        wanted = {"name": name, "durable_name": name, "deliver_policy": "all", "ack_policy": "explicit"} | config
        body = {"stream_name": self.name, "config": wanted, "action": action}
        answer = await self.api(f"CONSUMER.CREATE.{self.name}.{name}", body)
        assert "error" not in answer, answer
        return answer

    async def consumer_info(self, name: str = "c") -> dict[str, Any]:
        return await self.api(f"CONSUMER.INFO.{self.name}.{name}")

    async def pulls(self, name: str = "c") -> "Pulls":
        """An inbox for what a consumer is asked for."""
        inbox = self.client.new_inbox()
        pulls = Pulls(self.client, f"$JS.API.CONSUMER.MSG.NEXT.{self.name}.{name}", inbox)
        await self.client.subscribe(inbox, cb=pulls.arrived)
        return pulls


class Pulls:
    """What comes back to the pull requests on one inbox, in order."""

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
        """The next message or status."""
        async with asyncio.timeout(seconds):
            return await self._messages.get()

    async def take(self) -> Msg:
        """Ask for one, and wait for it."""
        await self.ask()
        return await self.next()

    async def is_quiet(self) -> bool:
        """Whether nothing more has come, once the server has done all that it was asked before."""
        await self._client.request("$JS.API.INFO", timeout=10)
        return self._messages.empty()


def place(message: Msg) -> tuple[int, int, int]:
    """How often a message was delivered, its sequence in the stream, and that in the consumer."""
    delivered, sequence, consumed = message.reply.split(".")[4:7]
    return int(delivered), int(sequence), int(consumed)


def status(message: Msg) -> tuple[str, str]:
    """The code and the text of what is no message of the stream."""
    headers = message.headers or {}
    return headers.get("Status", ""), headers.get("Description", "")
