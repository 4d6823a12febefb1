"""Helpers for tests of `mediator doctor`: set up an application, break it, and collect the findings."""

import asyncio
from collections.abc import Callable
from typing import Any

from mediator.cli.doctor.command import CHECKS, diagnose
from mediator.cli.doctor.finding import Check, Level, Report
from mediator.cli.doctor.installation import Options
from mediator.cli.topology import apply_topology
from mediator.nats import open_connection
from mediator.nats.topology import JetStreamApi
from mediator.sqlalchemy import create_schema, open_engine
from tests.adapters.cli.doctor.application import Container, config


async def set_up(given: dict[str, Any]) -> None:
    """Create tables, streams and consumers."""
    async with open_engine(given["database"]) as engine:
        await create_schema(engine)
    await apply_topology(Container(config=given), (), timeout=10, update_streams=False, prune=False)


async def doctor(
    given: dict[str, Any],
    make: Callable[..., Container] = Container,
    checks: tuple[Check, ...] = tuple(CHECKS),
    **options: Any,
) -> Report:
    async with asyncio.timeout(60):
        return await diagnose(make(config=given), Options(**options), checks)


def found(report: Report) -> list[tuple[str, str]]:
    """Return level and name of each warning and fault."""
    return [(each.level.value, each.name) for each in report.findings if each.level is not Level.OK]


async def call(url: str, subject: str, body: Any = None) -> Any:
    """Send a request to the JetStream API."""
    async with open_connection(url) as connection:
        api = JetStreamApi(await connection.client("publish", timeout=10), connection.broker)
        return await api.call(subject, body)


async def change(url: str, stream: str, **changes: Any) -> None:
    """Change the configuration of a stream."""
    there = (await call(url, f"STREAM.INFO.{stream}"))["config"]
    await call(url, f"STREAM.UPDATE.{stream}", there | changes)


async def replace(url: str, stream: str, **changes: Any) -> None:
    """Replace a stream by another one with the same consumers."""
    there = (await call(url, f"STREAM.INFO.{stream}"))["config"]
    consumers = (await call(url, f"CONSUMER.LIST.{stream}", {"offset": 0}))["consumers"]
    await call(url, f"STREAM.DELETE.{stream}")
    await call(url, f"STREAM.CREATE.{stream}", there | changes)
    for consumer in consumers:
        await put_consumer(url, stream, consumer["config"])


async def put_consumer(url: str, stream: str, wanted: dict[str, Any]) -> None:
    body = {"stream_name": stream, "config": wanted, "action": ""}
    await call(url, f"CONSUMER.CREATE.{stream}.{wanted['name']}", body)


__all__ = ["call", "change", "config", "doctor", "found", "put_consumer", "replace", "set_up"]
