"""Users of a broker who may do only what they must, once somebody else has created streams and consumers."""

import asyncio
from collections.abc import Callable

import pytest
from structlog.testing import capture_logs

from mediator.distributed.cloudevents import CloudEvent
from mediator.errors import PublisherUnavailableError
from mediator.nats import NatsEventPublisher, NatsEventSubscription, NatsServer, StreamSettings, open_connection
from mediator.nats.api import JetStreamApi
from mediator.nats.provisioning import provision
from mediator.nats.survey import survey
from mediator.nats.topology import merged

USERS = """
authorization { users: [
  { user: admin, password: "administrator" }
  { user: sales, password: "publishes", permissions: {
      publish: ["events.shop.>", "$JS.API.STREAM.INFO.events-shop"]
      subscribe: ["_INBOX_sales.>"] } }
  { user: shipping, password: "consumes", permissions: {
      publish: ["$JS.API.STREAM.INFO.events-shop", "$JS.API.CONSUMER.INFO.events-shop.*",
                "$JS.API.CONSUMER.MSG.NEXT.events-shop.*", "$JS.ACK.events-shop.>"]
      subscribe: ["_INBOX_shipping.>"] } }
  { user: deployment, password: "compares", permissions: {
      publish: ["$JS.API.STREAM.NAMES", "$JS.API.STREAM.INFO.*", "$JS.API.CONSUMER.LIST.*"]
      subscribe: ["_INBOX.>"] } }
  { user: operations, password: "creates", permissions: {
      publish: ["$JS.API.STREAM.NAMES", "$JS.API.STREAM.INFO.*", "$JS.API.CONSUMER.LIST.*",
                "$JS.API.STREAM.CREATE.*", "$JS.API.CONSUMER.CREATE.>", "$JS.API.STREAM.UPDATE.*"]
      subscribe: ["_INBOX.>"] } }
] }
"""
TYPE = "shop.order-placed"
SALES = {"user": "sales", "password": "publishes", "inbox_prefix": "_INBOX_sales"}
SHIPPING = {"user": "shipping", "password": "consumes", "inbox_prefix": "_INBOX_shipping"}


async def apply_as_admin(server: NatsServer, ordering: str) -> None:
    async with open_connection(server.url, user="admin", password="administrator") as connection:
        api = JetStreamApi(await connection.client("publish", timeout=5), connection.broker)
        wanted = [
            NatsEventPublisher(connection, "sales").topology([TYPE]),
            NatsEventSubscription(connection, "shipping").topology([TYPE], ordering=ordering),
        ]
        await provision(api, merged(wanted), done=lambda item: None)


@pytest.mark.parametrize("provisioning", [False, True], ids=["that say so", "that do not say so"])
@pytest.mark.parametrize("ordering", ["none", "key"])
async def test_applications_work_that_may_create_nothing(
    event: Callable[..., CloudEvent], ordering: str, provisioning: bool
) -> None:
    async with NatsServer(settings=USERS) as server:
        await apply_as_admin(server, ordering)
        with capture_logs() as logs:
            async with (
                open_connection(server.url, **SALES) as sales,
                open_connection(server.url, **SHIPPING) as shipping,
            ):
                publisher = NatsEventPublisher(sales, "sales", provision=provisioning)
                events = [event("a", "k"), event("b", "k"), event("c")]
                assert [each.error for each in await publisher.publish(events)] == [None] * 3
                subscription = NatsEventSubscription(shipping, "shipping", provision=provisioning)
                async with asyncio.timeout(10), subscription.open([TYPE], prefetch=64, ordering=ordering) as deliveries:
                    taken = set()
                    while len(taken) < 3:
                        delivery = await deliveries.next()
                        taken.add(delivery.event.id)
                        await delivery.ack()
                assert taken == {"a", "b", "c"}
    refused = {line["reason"] for line in logs if line["event"] == "refused by the broker"}
    assert refused <= {'nats: permissions violation for publish to "$js.api.info"'}  # the probe, once


async def test_who_may_not_create_a_stream_is_told_what_is_not_allowed(event: Callable[..., CloudEvent]) -> None:
    async with NatsServer(settings=USERS) as server, open_connection(server.url, **SALES) as sales:
        (result,) = await NatsEventPublisher(sales, "sales", timeout=15).publish([event("a")])
        assert isinstance(result.error, PublisherUnavailableError)
        assert "its user may not publish to $JS.API.STREAM.CREATE.events-shop" in str(result.error)


async def test_a_stream_is_created_with_batches_by_a_user_who_may_not_ask_for_the_api_level() -> None:
    users = (
        'authorization { users: [{ user: a, password: "secret", permissions: { publish: { deny: "$JS.API.INFO" } } }] }'
    )
    async with (
        NatsServer(settings=users) as server,
        open_connection(server.url, user="a", password="secret") as connection,
    ):
        topology = NatsEventPublisher(connection, "sales").topology([TYPE])
        api = JetStreamApi(await connection.client("publish", timeout=5), "")
        await provision(api, topology, done=lambda item: None)
        assert (await survey(api, topology)).streams["events-shop"]["config"]["allow_atomic"]


async def test_a_user_who_may_create_and_update_can_apply() -> None:
    async with (
        NatsServer(settings=USERS) as server,
        open_connection(server.url, user="operations", password="creates") as connection,
    ):
        api = JetStreamApi(await connection.client("publish", timeout=5), "")
        for types, age in (([TYPE], 3600), ([TYPE, "shop.order-paid"], 7200)):
            settings = StreamSettings(max_age=age)
            wanted = [
                NatsEventPublisher(connection, "sales", settings=settings).topology(types),
                NatsEventSubscription(connection, "shipping", settings=settings).topology(types),
            ]
            items = await provision(api, merged(wanted), done=lambda item: None, update_streams=True)
            assert {item.status for item in items} == {"present"}


async def test_a_user_who_may_only_look_can_compare() -> None:
    async with NatsServer(settings=USERS) as server:
        await apply_as_admin(server, "none")
        async with open_connection(server.url, user="deployment", password="compares") as connection:
            topology = NatsEventSubscription(connection, "shipping").topology([TYPE])
            api = JetStreamApi(await connection.client("publish", timeout=5), "")
            found = await survey(api, topology)
            assert list(found.consumers) == [("events-shop", "shipping")]
