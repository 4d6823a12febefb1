"""Fixtures: a nats-server for each module."""

import asyncio
from collections.abc import Iterator

import pytest

from mediator.nats import NatsServer
from tests.conformance.transports import SETTINGS

WAITING = {
    "test_a_delayed_event_can_be_cancelled_until_it_is_due",
    "test_a_delayed_event_is_published_when_it_is_due_and_not_before",
    "test_a_discard_waits_for_a_replay_that_has_reserved_or_taken_the_event",
    "test_a_process_that_leaves_is_not_overtaken_by_the_others",
    "test_a_subscription_outlives_an_outage",
    "test_deliveries_are_settled_in_any_order",
    "test_only_with_an_order_it_holds_up_those_of_its_key",
    "test_what_is_acknowledged_never_comes_again_to_its_group",
    "test_what_is_in_progress_does_not_come_again_meanwhile",
    "test_what_was_not_acknowledged_is_delivered_to_the_next_of_the_group",
}
"""Cases that wait for a second or longer until an adapter has kept its promise."""


@pytest.hookimpl(tryfirst=True)  # before what is marked is deselected
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark the cases that wait."""
    for item in items:
        if getattr(item, "originalname", item.name) in WAITING:
            item.add_marker(pytest.mark.thorough("waits for an adapter to keep its promise"))


@pytest.fixture(scope="module")
def server() -> Iterator[NatsServer]:
    """Shared: an outage is over when its case ends."""
    server = NatsServer(settings=SETTINGS)
    with asyncio.Runner() as runner:
        runner.run(server.start())
        yield server
        runner.run(server.stop())
