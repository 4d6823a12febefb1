"""A watcher: receives every message except answers in inboxes, and records messages sent to subjects chosen by a stranger.

`python -m tests.faults.scenarios.watcher --url nats://127.0.0.1:4222 --file heard.json`, until it is terminated.
"""

import argparse
import asyncio
import json
import re
import signal
from collections import Counter
from pathlib import Path

from tests.faults.scenarios.foreign import CHOSEN
from tests.faults.scenarios.wire import Arrived, opened_wire

_ANSWER = re.compile(rb"\r\nmediator-status: ?(ok|failed|refused|busy|unreadable)\r\n", re.IGNORECASE)
_SHOWN = 500
_BY_BROKER = re.compile(rb'\{"(stream|error|type)":')
_ALSO_SENT = (b"events.", b"requests.", b"mediator-wake.", b"$JS.ACK.events-load.", b"$JS.API.CONSUMER.MSG.NEXT.")
"""Subjects that strangers and applications use regularly."""


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    parser.add_argument("--url", required=True)
    parser.add_argument("--file", type=Path, required=True)
    return parser.parse_args()


def is_ours(message: Arrived) -> bool:
    """Return whether an application has sent the message to a subject that only a stranger can have chosen."""
    if _ANSWER.search(message.headers):
        return True
    if message.subject not in CHOSEN or message.subject.startswith(_ALSO_SENT):
        return False
    return not (message.headers.startswith(b"NATS/1.0 503") or _BY_BROKER.match(message.body))


async def watch(options: argparse.Namespace) -> None:
    asked: Counter[str] = Counter()
    ours: list[str] = []
    stopped = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stopped.set)
    async with opened_wire(options.url) as wire:
        await wire.subscribe(b">")
        print("watching", flush=True)  # noqa: T201  (a program)

        async def hear() -> None:
            while True:
                message = await wire.next()
                if message.subject.startswith((b"_INBOX.", b"_INBOX_")) and message.subject not in CHOSEN:
                    continue
                if message.subject.startswith(b"requests."):
                    asked[message.subject.decode(errors="backslashreplace")] += 1
                if is_ours(message):
                    ours.append(str(message)[:_SHOWN])

        hearing = asyncio.create_task(hear())
        await stopped.wait()
        await wire.flush()
        while wire.unread:
            await asyncio.sleep(0.01)
        hearing.cancel()
        options.file.write_text(json.dumps({"asked": asked, "ours": ours, "closed": wire.closed}))


if __name__ == "__main__":
    asyncio.run(watch(parsed()))
