"""A stranger: sends foreign events and requests, no faster than they are settled, and forges acknowledgements.

`python -m tests.faults.scenarios.stranger --url nats://127.0.0.1:4222 --events 1000 --requests 1000 --file counts.json`

It sends in bursts that are settled within about a quarter of a second, because a sender that is faster than the
handlers delays all messages. SIGTERM ends it, and messages sent until then count.
"""

import argparse
import asyncio
import json
import random
import signal
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.faults.scenarios.foreign import Foreign, Message
from tests.faults.scenarios.wire import Wire, asked, opened_wire

_SMALLEST, _LARGEST = 4, 200
_SOON = 0.25
_PAUSE = 0.05
_STANDSTILL = 60.0
_ACKNOWLEDGEMENTS = [
    b"",
    b"+ACK",
    b"-NAK",
    b'-NAK {"delay": 1000000000}',
    b"+WPI",
    b"+TERM",
    b"+TERM stranger",
    b"+",
    b"x" * 1000,
]


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    parser.add_argument("--url", required=True)
    parser.add_argument("--events", type=int, default=1000)
    parser.add_argument("--requests", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--file", type=Path, required=True, help="for what was sent")
    return parser.parse_args()


@dataclass
class Bursts:
    """The size of the bursts, which grows while bursts are settled quickly."""

    left: int
    size: int = _SMALLEST
    sent: int = 0

    def __iter__(self) -> Iterator[int]:
        while self.sent < self.left:
            number, began = min(self.size, self.left - self.sent), time.monotonic()
            yield number
            self.sent += number
            fast = time.monotonic() - began < _SOON
            self.size = min(_LARGEST, self.size + 4) if fast else max(_SMALLEST, self.size // 2)

    def stop(self) -> None:
        self.left = self.sent


async def send_events(url: str, options: argparse.Namespace, bursts: Bursts) -> dict[str, int]:
    foreign, rng = Foreign(f"events {options.seed}"), random.Random(options.seed)
    inbox = b"_INBOX.events" + b"E" * 16
    async with opened_wire(url) as wire, opened_wire(url) as asking:
        await asking.subscribe(inbox)
        for burst in bursts:
            for _ in range(burst):
                await wire.send(foreign.event())
            await wire.flush()
            consumers = await _settled(asking, inbox)
            await wire.send(_acknowledgement(rng, rng.choice(consumers)))
        return {"events": bursts.sent, "closed for events": wire.closed, "refused events": wire.refused}


async def _settled(wire: Wire, inbox: bytes) -> list[dict[str, Any]]:
    """Wait until at most a few events wait, and return the consumers."""
    best, since = sys.maxsize, time.monotonic()
    while True:
        consumers = (await asked(wire, inbox, b"$JS.API.CONSUMER.LIST.events-load", {"offset": 0}))["consumers"]
        left = sum(each["num_pending"] + each["num_ack_pending"] for each in consumers)
        if left <= _SMALLEST:
            return consumers
        if left < best:
            best, since = left, time.monotonic()
        if time.monotonic() - since > _STANDSTILL:
            raise TimeoutError(f"{left} events stand still")
        await asyncio.sleep(_PAUSE)


def _acknowledgement(rng: random.Random, consumer: dict[str, Any]) -> Message:
    """Draw the acknowledgement of a delivery to another process, or a broken one."""
    delivered = consumer["delivered"]
    place = (delivered["stream_seq"] + rng.randrange(3), delivered["consumer_seq"] + rng.randrange(3))
    subject = f"$JS.ACK.events-load.{consumer['name']}.1.{place[0]}.{place[1]}.{time.time_ns()}.0"
    return Message(subject.encode(), b"", b"", rng.choice(_ACKNOWLEDGEMENTS))


async def send_requests(url: str, options: argparse.Namespace, bursts: Bursts) -> dict[str, int]:
    foreign = Foreign(f"requests {options.seed}")
    inbox = b"_INBOX.requests" + b"R" * 14
    async with opened_wire(url) as wire:
        await wire.subscribe(inbox)
        for burst in bursts:
            for _ in range(burst - 1):
                await wire.send(foreign.request())
            await wire.flush()
            await asked(
                wire, inbox, b"requests.load.note", "no request"
            )  # the broker refuses the batch while others are open
        return {"requests": bursts.sent, "closed for requests": wire.closed, "refused requests": wire.refused}


async def tell(events: Bursts, requests: Bursts) -> None:
    while True:
        print(f"{events.sent:,} events and {requests.sent:,} requests sent", flush=True)  # noqa: T201  (a program)
        await asyncio.sleep(5)


async def main(options: argparse.Namespace) -> None:
    of_events, of_requests = Bursts(options.events), Bursts(options.requests)
    telling = asyncio.create_task(tell(of_events, of_requests))

    def stop() -> None:
        of_events.stop()
        of_requests.stop()

    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop)
    async with asyncio.TaskGroup() as group:
        events = group.create_task(send_events(options.url, options, of_events))
        requests = group.create_task(send_requests(options.url, options, of_requests))
    telling.cancel()
    options.file.write_text(json.dumps(events.result() | requests.result()))


if __name__ == "__main__":
    asyncio.run(main(parsed()))
