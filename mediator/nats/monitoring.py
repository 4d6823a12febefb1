"""Monitoring: what a nats-server on this machine says of itself over HTTP.

The pages are those of https://docs.nats.io/running-a-nats-service/nats_admin/monitoring.
"""

import asyncio
import contextlib
import json
from typing import Any


async def monitored(port: int, path: str) -> dict[str, Any] | None:
    """The answer of a server; `None` when there is none, or when it is not well."""
    try:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
    except OSError:
        return None
    try:
        writer.write(f"GET {path} HTTP/1.0\r\n\r\n".encode())
        head, _, body = (await reader.read()).partition(b"\r\n\r\n")
        answer: dict[str, Any] | None = json.loads(body) if b" 200 " in head.partition(b"\r\n")[0] else None
    except (OSError, ValueError):
        return None
    else:
        return answer
    finally:
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()
