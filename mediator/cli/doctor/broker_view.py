"""Broker view: all that can be seen of a broker, within a bound, and how it differs from what is wanted."""

import asyncio
from datetime import datetime
from typing import Any

from mediator.cli.doctor.installation import Broker, Options
from mediator.errors import PublisherUnavailableError
from mediator.nats import NatsConnection
from mediator.nats.api import JetStreamApi
from mediator.nats.inspection import Inspection, inspect_broker
from mediator.nats.plan import Item, plan
from mediator.nats.survey import survey
from mediator.nats.topology import Topology


async def view_broker(label: str, connection: NatsConnection, wanted: Topology, options: Options) -> Broker:
    """Look at a broker, and change nothing. Whatever is away is told in what is returned."""
    try:
        async with asyncio.timeout(2 * options.timeout):  # connecting has a bound of its own
            seen = await inspect_broker(connection, wanted, timeout=options.timeout, monitoring=options.monitoring)
            if not (seen.reachable and seen.jetstream):
                return Broker(label, connection, wanted, seen)
            client = await connection.client("publish", timeout=options.timeout)
            api = JetStreamApi(client, connection.broker)
            compared, problem = await _compared(api, wanted)
            return Broker(label, connection, wanted, seen, compared, problem, await _offset(api, seen, options))
    except TimeoutError:
        problem = f"no answer within {options.timeout:g} s"
    except Exception as error:  # told in the report: it went away meanwhile, or something else answers
        problem = f"{type(error).__name__}: {error}"
    return Broker(label, connection, wanted, Inspection(connection.broker, problems=(problem,)))


async def _compared(api: JetStreamApi, wanted: Topology) -> tuple[list[Item] | None, str]:
    try:
        return plan(wanted, await survey(api, wanted)), ""
    except PublisherUnavailableError as error:
        return None, error.reason


async def _offset(api: JetStreamApi, seen: Inspection, options: Options) -> float | None:
    """How many seconds the broker's clock is ahead: the description of a stream says when it was made."""
    if not seen.streams:
        return None
    before = options.clock()
    try:
        info: dict[str, Any] = await api.stream(seen.streams[0].name) or {}
    except PublisherUnavailableError:
        return None
    now = (before + options.clock()) / 2
    return datetime.fromisoformat(_microseconds(info["ts"])).timestamp() - now if "ts" in info else None


def _microseconds(time: str) -> str:
    """RFC 3339 in UTC with no more digits than Python 3.11 reads."""
    seconds, _, fraction = time.rstrip("Z").partition(".")
    return f"{seconds}.{fraction[:6]:0<6}+00:00"
