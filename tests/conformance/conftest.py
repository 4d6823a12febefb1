"""Fixtures: a nats-server for each module."""

import asyncio
import inspect
from collections.abc import Iterator

import pytest

from mediator.nats import NatsServer
from tests.conformance.transports import SETTINGS

WAITING = {
    "test_a_delayed_event_can_be_cancelled_until_it_is_due",
    "test_a_delayed_event_is_published_when_it_is_due_and_not_before",
    "test_a_delayed_redelivery_blocks_its_key_only_with_key_ordering",
    "test_a_discard_waits_for_a_replay_that_has_reserved_or_taken_the_event",
    "test_a_subscription_survives_an_outage",
    "test_an_acknowledged_event_is_not_delivered_again_to_its_group",
    "test_an_event_in_progress_is_not_delivered_again",
    "test_an_event_is_claimed_when_it_is_due_and_not_before",
    "test_an_unacknowledged_event_is_delivered_to_the_next_process_of_the_group",
    "test_deliveries_are_settled_in_any_order",
    "test_the_event_of_a_process_that_stops_is_not_overtaken",
}
"""Cases that take a second or longer with a real adapter. In memory they run in virtual time."""


@pytest.hookimpl(tryfirst=True)  # before pytest deselects by marker
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark the cases that take long."""
    for item in items:
        function = getattr(item, "function", None)
        if getattr(item, "originalname", item.name) in WAITING and inspect.iscoroutinefunction(function):
            item.add_marker(pytest.mark.thorough("waits for an adapter to keep its promise"))


@pytest.fixture(scope="module")
def server() -> Iterator[NatsServer]:
    """A nats-server for a module. Each case ends its outage, so that the cases can share the server."""
    server = NatsServer(settings=SETTINGS)
    with asyncio.Runner() as runner:
        runner.run(server.start())
        yield server
        runner.run(server.stop())
