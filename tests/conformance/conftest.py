"""Fixtures: a nats-server for each module."""

import asyncio
from collections.abc import Iterator

import pytest

from mediator.nats import NatsServer
from tests.conformance.transports import SETTINGS


@pytest.fixture(scope="module")
def server() -> Iterator[NatsServer]:
    """Shared: an outage is over when its case ends."""
    server = NatsServer(settings=SETTINGS)
    with asyncio.Runner() as runner:
        runner.run(server.start())
        yield server
        runner.run(server.stop())
