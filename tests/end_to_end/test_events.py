"""A command in one application takes effect in another: two applications in one process, with real servers."""

import asyncio

import nats
import pytest
from structlog.testing import capture_logs

from mediator import TransactionMode
from mediator.dependency_injector import lifespan
from mediator.errors import EventsNotPublishedError
from mediator.nats import NatsServer
from mediator.testing.failpoints import Failure, Pause, failpoint
from tests.end_to_end.conftest import Databases, eventually
from tests.end_to_end.shop.application import DirectShopContainer, PlaceAll, PlaceOrder, ShopContainer
from tests.end_to_end.tables import configured
from tests.end_to_end.warehouse.application import WarehouseContainer


async def stored(server: NatsServer, stream: str = "events-shop") -> int:
    """Return the number of events in the stream."""
    client = await nats.connect(server.url)
    try:
        return (await client.jetstream().stream_info(stream)).state.messages
    finally:
        await client.close()


async def test_an_event_of_a_committed_command_takes_effect_once_in_the_other_application(
    server: NatsServer, databases: Databases
) -> None:
    shop = configured(ShopContainer, str(databases.shop), server.url)
    warehouse = configured(WarehouseContainer, str(databases.warehouse), server.url)
    async with lifespan(shop, workers=True), lifespan(warehouse, workers=True):
        mediator = shop.mediator()
        for number in range(20):
            if number % 4 == 3:
                with pytest.raises(ValueError, match=str(number)):
                    await mediator.send(PlaceOrder(str(number), fails=True))
            else:
                await mediator.send(PlaceOrder(str(number), customer="ada"))
        await eventually(lambda: len(databases.reservations()) == 15, "15 reservations")
        await eventually(lambda: databases.pending() == 0, "empty outboxes")
    expected = [str(number) for number in range(20) if number % 4 != 3]
    assert databases.orders() == databases.reservations() == expected
    assert (databases.archived(), await stored(server)) == (15, 15)
    assert databases.follow_ups() == 15
    assert await stored(server, "events-warehouse") == 15


async def test_only_the_events_of_the_committed_command_of_a_scope_reach_the_stream(
    server: NatsServer, databases: Databases
) -> None:
    shop = configured(ShopContainer, str(databases.shop), server.url)
    async with lifespan(shop, workers=True):
        mediator = shop.mediator()
        async with mediator.scope():
            with pytest.raises(ValueError, match="bad"):
                await mediator.send(PlaceOrder("bad", fails=True))
            await mediator.send(PlaceOrder("good"))
        await eventually(lambda: databases.archived() == 1, "one event published")
    assert await stored(server) == 1


async def test_nested_commands_publish_after_the_outermost_commit_and_nothing_after_its_rollback(
    server: NatsServer, databases: Databases
) -> None:
    shop = configured(ShopContainer, str(databases.shop), server.url)
    async with lifespan(shop, workers=True):
        mediator = shop.mediator()
        with pytest.raises(ValueError, match="all"):
            await mediator.send(PlaceAll(("1", "2"), fails=True))
        await mediator.send(PlaceAll(("3", "4")))
        with pytest.raises(ValueError, match="all"):
            await mediator.send(PlaceAll(("5",), fails=True, mode=TransactionMode.NEW))
        await eventually(lambda: databases.archived() == 3, "three events published")
    assert databases.orders() == ["3", "4", "5"]
    assert await stored(server) == 3


@pytest.mark.thorough("kills and restarts servers")
async def test_commands_commit_although_the_broker_is_down_at_the_start_and_the_relay_catches_up(
    databases: Databases,
) -> None:
    server = NatsServer()
    await server.start()
    url = server.url
    await server.kill()
    try:
        shop = configured(ShopContainer, str(databases.shop), url)
        with capture_logs() as logs:
            async with lifespan(shop, workers=True):
                for number in range(5):
                    await shop.mediator().send(PlaceOrder(str(number)))
                await eventually(lambda: any(line["event"] == "relay waits" for line in logs), "the relay says so")
                assert databases.pending() == 5
                await server.restart()
                await eventually(lambda: databases.pending() == 0, "an empty outbox")
        assert [line["event"] for line in logs].count("relay waits") == 1
        assert [line["event"] for line in logs].count("relay goes on") == 1
        assert await stored(server) == 5
    finally:
        await server.stop()


@pytest.mark.thorough("kills and restarts servers")
async def test_no_event_is_lost_or_duplicated_when_the_broker_is_killed_and_restarted(
    server: NatsServer, databases: Databases
) -> None:
    shop = configured(ShopContainer, str(databases.shop), server.url)
    warehouse = configured(WarehouseContainer, str(databases.warehouse), server.url)
    async with lifespan(shop, workers=True), lifespan(warehouse, workers=True):
        for number in range(100):
            await shop.mediator().send(PlaceOrder(str(number), customer="ada"))
            if number == 50:
                await server.kill()
            if number == 80:
                await server.restart()
        await eventually(lambda: len(databases.reservations()) >= 100, "100 reservations")
    assert databases.reservations() == [str(number) for number in range(100)]
    assert await stored(server) == 100


async def test_a_failing_handler_is_retried_and_takes_effect_once(server: NatsServer, databases: Databases) -> None:
    shop = configured(ShopContainer, str(databases.shop), server.url)
    warehouse = configured(WarehouseContainer, str(databases.warehouse), server.url)
    with capture_logs() as logs:
        async with lifespan(shop, workers=True), lifespan(warehouse, workers=True):
            await shop.mediator().send(PlaceOrder("poison"))
            await shop.mediator().send(PlaceOrder("fine"))
            await eventually(lambda: len(databases.reservations()) == 2, "both reservations")
    attempts = {number: attempt for number, _, _, attempt, _ in databases.rows()}
    assert attempts == {"poison": 2, "fine": 1}
    failures = [line for line in logs if line["event"] == "delivery failed"]
    assert [(line["error"], line["attempt"]) for line in failures] == [("ValueError", 1)]


@pytest.mark.parametrize("name", ["consumer.after_insert", "relay.after_select"])
async def test_a_worker_survives_the_cancellation_of_a_task_that_it_awaits(
    server: NatsServer, databases: Databases, name: str
) -> None:
    shop = configured(ShopContainer, str(databases.shop), server.url)
    warehouse = configured(WarehouseContainer, str(databases.warehouse), server.url)
    with capture_logs() as logs, failpoint(name, Failure(asyncio.CancelledError())):
        async with lifespan(shop, workers=True), lifespan(warehouse, workers=True):
            await shop.mediator().send(PlaceOrder("1"))
            await eventually(lambda: databases.reservations() == ["1"], "the reservation", 10)
    assert [line["error"] for line in logs if line["log_level"] == "error"] == ["CancelledError"]


async def test_an_event_of_an_unknown_type_or_content_is_redelivered_and_never_dropped(
    server: NatsServer, databases: Databases
) -> None:
    warehouse = configured(WarehouseContainer, str(databases.warehouse), server.url)
    shop = configured(ShopContainer, str(databases.shop), server.url)
    with capture_logs() as logs:
        async with lifespan(warehouse, workers=True), lifespan(shop, workers=True):
            await shop.mediator().send(PlaceOrder("1"))
            await eventually(lambda: databases.reservations() == ["1"], "the first reservation")
            client = await nats.connect(server.url)
            jetstream = client.jetstream()
            headers = {"ce-specversion": "1.0", "ce-id": "x", "ce-source": "s", "ce-type": "shop.order-placed.v9"}
            await jetstream.publish("events.shop.order-placed.0", b"{}", headers=headers)
            headers = {**headers, "ce-id": "y", "ce-type": "shop.order-placed.v1"}
            await jetstream.publish("events.shop.order-placed.0", b"{}", headers=headers)
            await jetstream.publish("events.shop.order-placed.0", b"no event at all")
            await client.close()
            await eventually(
                lambda: len({line["sequence"] for line in logs if line.get("attempt", 0) >= 2}) == 3,
                "each delivered twice",
            )
            await shop.mediator().send(PlaceOrder("2"))
            await eventually(lambda: databases.reservations() == ["1", "2"], "the second reservation")


async def test_correlation_and_causation_reach_the_other_application(server: NatsServer, databases: Databases) -> None:
    shop = configured(ShopContainer, str(databases.shop), server.url)
    warehouse = configured(WarehouseContainer, str(databases.warehouse), server.url)
    with capture_logs() as logs:
        async with lifespan(shop, workers=True), lifespan(warehouse, workers=True):
            await shop.mediator().send(PlaceOrder("1"))
            await eventually(lambda: len(databases.rows()) == 1, "the reservation")
            async with warehouse.outbox().claim(10) as batch:
                follow_up = [*batch.events]
    handled = next(line for line in logs if line["event"] == "handled" and line["message_type"] == "PlaceOrder")
    ((_, _, event_id, _, correlation),) = databases.rows()
    assert correlation == handled["correlation_id"] == handled["message_id"]
    assert all(event.extensions["causationid"] == event_id for event in follow_up)


async def test_the_tenant_reaches_the_other_application_and_the_events_it_publishes(
    server: NatsServer, databases: Databases
) -> None:
    shop = configured(ShopContainer, str(databases.shop), server.url)
    warehouse = configured(WarehouseContainer, str(databases.warehouse), server.url)
    with capture_logs() as logs:
        async with lifespan(shop, workers=True), lifespan(warehouse, workers=True):
            async with shop.mediator().context(tenant="acme", principal="ada", headers={"a": "secret"}):
                await shop.mediator().send(PlaceOrder("1"))
                await shop.mediator().send(PlaceOrder("poison"))
            await eventually(lambda: len(databases.rows()) == 2, "the reservations")
    lines = [line for line in logs if line["event"] == "transaction committed"]
    assert {(line["message_type"], line["tenant"], line.get("principal")) for line in lines} == {
        ("PlaceOrder", "acme", "ada"),
        ("shop.order-placed.v1", "acme", None),
    }
    (failed,) = (line for line in logs if line["event"] == "delivery failed")
    assert (failed["tenant"], failed["message_id"]) == ("acme", failed["event_id"])
    assert "secret" not in str(logs)


async def test_attributes_out_of_bounds_are_dropped_with_one_warning_and_the_event_is_handled(
    server: NatsServer, databases: Databases
) -> None:
    shop = configured(ShopContainer, str(databases.shop), server.url)
    warehouse = configured(WarehouseContainer, str(databases.warehouse), server.url)
    with capture_logs() as logs:
        async with lifespan(warehouse, workers=True), lifespan(shop, workers=True):
            await shop.mediator().send(PlaceOrder("1"))
            await eventually(lambda: databases.reservations() == ["1"], "the first reservation")
            client = await nats.connect(server.url)
            headers = {"ce-specversion": "1.0", "ce-id": "x%0Ay", "ce-source": "s", "ce-type": "shop.order-placed.v1"}
            headers |= {"ce-correlationid": "a" * 300, "ce-causationid": "%1B[2J", "ce-tenant": "acme%0A"}
            data = b'{"number": "2", "customer": "eve"}'
            await client.jetstream().publish("events.shop.order-placed.0", data, headers=headers)
            await client.close()
            await eventually(lambda: databases.reservations() == ["1", "2"], "the second reservation")
    (warning,) = (line for line in logs if line["event"] == "attributes dropped")
    assert warning["attributes"] == ["id", "correlationid", "causationid", "tenant"]
    assert warning["log_level"] == "warning"
    committed = [line for line in logs if line["event"] == "transaction committed"][-1]
    assert committed["message_id"] == committed["correlation_id"] == warning["message_id"]
    assert databases.rows()[1][2] == "x\ny"  # the delivery itself is unchanged
    assert "acme" not in str(logs)


async def test_direct_delivery_publishes_after_the_commit_and_needs_no_relay(
    server: NatsServer, databases: Databases
) -> None:
    shop = configured(DirectShopContainer, str(databases.shop), server.url)
    async with lifespan(shop):
        with pytest.raises(ValueError, match="bad"):
            await shop.mediator().send(PlaceOrder("bad", fails=True))
        assert await shop.mediator().send(PlaceOrder("1", customer="ada")) == "1"
    assert (databases.orders(), databases.pending(), databases.archived()) == (["1"], 0, 0)
    assert await stored(server) == 1


@pytest.mark.thorough("kills and restarts servers")
async def test_direct_delivery_to_a_broker_that_is_down_reports_that_the_command_committed(
    server: NatsServer, databases: Databases
) -> None:
    shop = configured(DirectShopContainer, str(databases.shop), server.url)
    async with lifespan(shop):
        await shop.mediator().send(PlaceOrder("1"))
        await server.kill()
        with pytest.raises(EventsNotPublishedError, match="Do not repeat the command") as caught:
            await shop.mediator().send(PlaceOrder("2"))
    assert caught.value.response == "2"
    assert [event.type for event in caught.value.events] == ["shop.order-placed.v1"]
    assert databases.orders() == ["1", "2"]


async def test_direct_delivery_publishes_although_the_caller_is_cancelled_during_the_commit(
    server: NatsServer, databases: Databases
) -> None:
    shop = configured(DirectShopContainer, str(databases.shop), server.url)
    async with lifespan(shop):
        pause = Pause()
        with failpoint("unit_of_work.during_commit", pause):
            task = asyncio.create_task(shop.mediator().send(PlaceOrder("1")))
            await pause.reached.wait()
            task.cancel()
            pause.release()
            with pytest.raises(asyncio.CancelledError):
                await task
    assert databases.orders() == ["1"]
    assert await stored(server) == 1


async def test_an_error_between_the_handlers_and_the_commit_of_a_consumer_leaves_no_effect_behind(
    server: NatsServer, databases: Databases
) -> None:
    shop = configured(ShopContainer, str(databases.shop), server.url)
    warehouse = configured(WarehouseContainer, str(databases.warehouse), server.url)
    async with lifespan(shop, workers=True), lifespan(warehouse, workers=True):
        for name in (
            "consumer.before_insert",
            "consumer.after_insert",
            "consumer.after_handlers",
            "consumer.after_commit",
        ):
            with failpoint(name, Failure(LookupError(name))):
                await shop.mediator().send(PlaceOrder(name))
                await eventually(lambda name=name: name in databases.reservations(), name)  # type: ignore[misc]
    assert len(databases.reservations()) == len(set(databases.reservations())) == 4
    assert databases.follow_ups() == 4
