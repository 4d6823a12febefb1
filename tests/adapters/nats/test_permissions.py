"""Users of a broker with the least permissions, after somebody else has created streams and consumers."""

import asyncio
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import pytest
from structlog.testing import capture_logs

from mediator import Query
from mediator.cli.doctor.inspection import inspect_broker
from mediator.distributed.cloudevents import CloudEvent
from mediator.distributed.requests import RemoteSender, RequestResponder, trust_broker
from mediator.errors import PublisherUnavailableError, RemoteUnavailableError
from mediator.nats import (
    NatsConnection,
    NatsEventPublisher,
    NatsEventSubscription,
    NatsRequestChannel,
    NatsServer,
    StreamSettings,
    open_connection,
    open_doorbell,
)
from mediator.nats.connection import AuthenticatedClient
from mediator.nats.topology import JetStreamApi, merged, provision, survey
from tests.unit.wiring import handles, wire

PAGE = (Path(__file__).parents[3] / "docs/security.md").read_text("utf-8")
PERMISSIONS = re.search(r"^authorization \{.*?^\] \}$", PAGE, re.MULTILINE | re.DOTALL)[0]
NAMES = re.findall(r"user: (\w+)", PERMISSIONS)
PASSWORDS = "\n".join(f'{name.upper()}_PASSWORD: "p-{name}"' for name in NAMES)
ADMIN = '{ user: admin, password: "administrator" }'
USERS = f"{PASSWORDS}\n{PERMISSIONS.replace('users: [', f'users: [ {ADMIN}', 1)}"
TYPE = "shop.order-placed"
GROUPS = {"none": "shipping", "key": "billing"}
PROBE = 'nats: permissions violation for publish to "$js.api.info"'


def opened(server: NatsServer, user: str) -> AbstractAsyncContextManager[NatsConnection]:
    """Open a connection of a user that the documentation describes."""
    return open_connection(server.url, user=user, password=f"p-{user}", inbox_prefix=f"_INBOX_{user}")


def refused(logs: Sequence[Mapping[str, Any]]) -> set[str]:
    """Return the refused permissions, except the probe that each connection tries once."""
    return {line["reason"] for line in logs if line["event"] == "refused by the broker"} - {PROBE}


async def apply_as_admin(server: NatsServer, ordering: str) -> None:
    async with open_connection(server.url, user="admin", password="administrator") as connection:
        api = JetStreamApi(await connection.client("publish", timeout=5), connection.broker)
        wanted = [
            NatsEventPublisher(connection, "sales").topology([TYPE]),
            NatsEventSubscription(connection, GROUPS[ordering]).topology([TYPE], ordering=ordering),
        ]
        await provision(api, merged(wanted), done=lambda item: None)


@pytest.mark.thorough("waits for refusals of a server")
@pytest.mark.parametrize("provisioning", [False, True], ids=["that say so", "that do not say so"])
@pytest.mark.parametrize("ordering", ["none", "key"])
async def test_applications_without_rights_to_create_work(
    event: Callable[..., CloudEvent], ordering: str, provisioning: bool
) -> None:
    async with NatsServer(settings=USERS) as server:
        group = GROUPS[ordering]
        await apply_as_admin(server, ordering)
        with capture_logs() as logs:
            async with opened(server, "sales") as sales, opened(server, group) as consuming:
                publisher = NatsEventPublisher(sales, "sales", provision=provisioning)
                events = [event("a", "k"), event("b", "k"), event("c")]
                assert [each.error for each in await publisher.publish(events)] == [None] * 3
                subscription = NatsEventSubscription(consuming, group, provision=provisioning)
                async with asyncio.timeout(10), subscription.open([TYPE], prefetch=64, ordering=ordering) as deliveries:
                    taken = set()
                    while len(taken) < 3:
                        delivery = await deliveries.next()
                        taken.add(delivery.event.id)
                        await delivery.ack()
                assert taken == {"a", "b", "c"}
    assert refused(logs) == set()


@pytest.mark.thorough("waits for refusals of a server")
async def test_the_error_of_a_forbidden_stream_creation_names_the_missing_right(
    event: Callable[..., CloudEvent],
) -> None:
    async with NatsServer(settings=USERS) as server, opened(server, "sales") as sales:
        (result,) = await NatsEventPublisher(sales, "sales", timeout=15).publish([event("a")])
        assert isinstance(result.error, PublisherUnavailableError)
        assert "this application's user may not publish to $JS.API.STREAM.CREATE.events-shop" in str(result.error)


@pytest.mark.thorough("waits for refusals of a server")
async def test_a_stream_is_created_with_batches_by_a_user_who_may_not_ask_for_the_api_level() -> None:
    users = (
        'authorization { users: [{ user: a, password: "secret", permissions: { publish: { deny: "$JS.API.INFO" } } }] }'
    )
    async with (
        NatsServer(settings=users) as server,
        open_connection(server.url, user="a", password="secret") as connection,
    ):
        settings = StreamSettings(atomic_batches=True)
        topology = NatsEventPublisher(connection, "sales", settings=settings).topology([TYPE])
        api = JetStreamApi(await connection.client("publish", timeout=5), "")
        await provision(api, topology, done=lambda item: None)
        assert (await survey(api, topology)).streams["events-shop"]["config"]["allow_atomic"]


async def test_a_user_with_create_and_update_rights_can_apply() -> None:
    async with NatsServer(settings=USERS) as server, opened(server, "operations") as connection:
        api = JetStreamApi(await connection.client("publish", timeout=5), "")
        for types, age in (([TYPE], 3600), ([TYPE, "shop.order-paid"], 7200)):
            settings = StreamSettings(max_age=age)
            wanted = [
                NatsEventPublisher(connection, "sales", settings=settings).topology(types),
                NatsEventSubscription(connection, "shipping", settings=settings).topology(types),
            ]
            items = await provision(api, merged(wanted), done=lambda item: None, update_streams=True)
            assert {item.status for item in items} == {"present"}


async def test_a_user_with_read_rights_can_compare() -> None:
    async with NatsServer(settings=USERS) as server:
        await apply_as_admin(server, "none")
        async with opened(server, "deployment") as connection:
            topology = NatsEventSubscription(connection, "shipping").topology([TYPE])
            api = JetStreamApi(await connection.client("publish", timeout=5), "")
            found = await survey(api, topology)
            assert list(found.consumers) == [("events-shop", "shipping")]


@pytest.mark.thorough("waits for refusals of a server")
async def test_refused_api_subjects_are_remembered_until_the_next_connect_and_other_subjects_are_not() -> None:
    async with NatsServer(settings=USERS) as server, opened(server, "sales") as sales:
        connected = asyncio.Queue[None]()
        sales.on_connect("publish", lambda: connected.put_nowait(None))
        client = await sales.client("publish", timeout=5)
        assert isinstance(client, AuthenticatedClient)
        await connected.get()
        api, told = JetStreamApi(client, ""), asyncio.Event()
        client.on_denied("reply.to.99", told.set)
        async with asyncio.timeout(20):
            for number in range(100):
                await client.publish(f"reply.to.{number}", b"")
            await told.wait()
            with pytest.raises(PublisherUnavailableError, match="may not publish"):
                await api.call("STREAM.CREATE.events-shop", {})
            assert client._denied == {"$js.api.stream.create.events-shop"}
            await client.force_reconnect()
            await connected.get()
            assert not client.may_not_publish("$JS.API.STREAM.CREATE.events-shop")


@dataclass(frozen=True)
class FindPrice(Query[int]):
    request_type: ClassVar[str] = "pricing.find-price"
    product: str


async def test_requests_are_sent_and_answered_with_the_documented_permissions(event: Callable[..., CloudEvent]) -> None:
    async def price(query: FindPrice) -> int:
        return len(query.product)

    async with NatsServer(settings=USERS) as server:
        with capture_logs() as logs:
            async with opened(server, "storefront") as asking, opened(server, "pricing") as answering:
                responder = RequestResponder(
                    NatsRequestChannel(answering, "pricing"),
                    wire(handles(FindPrice, price)),
                    exposes=[FindPrice],
                    authenticate=trust_broker,
                )
                running = asyncio.create_task(responder.run())
                sender = RemoteSender(NatsRequestChannel(asking, "storefront"))
                async with asyncio.timeout(20):
                    while True:
                        try:
                            assert await sender.send(FindPrice("lamp")) == 4
                            break
                        except RemoteUnavailableError:
                            await asyncio.sleep(0.01)
                    assert [await sender.send(FindPrice("x" * number)) for number in range(20)] == [*range(20)]
                running.cancel()
                await asyncio.wait((running,))
    assert refused(logs) == set()


async def test_a_doorbell_rings_and_listens_with_the_documented_permissions() -> None:
    async with NatsServer(settings=USERS) as server:
        with capture_logs() as logs:
            async with (
                opened(server, "sales") as here,
                opened(server, "sales") as there,
                open_doorbell(here, "sales") as bell,
                open_doorbell(there, "sales") as other,
                asyncio.timeout(20),
            ):
                heard = asyncio.Queue[None]()
                other.on_ring(lambda: heard.put_nowait(None))
                await heard.get()
                bell.ring()
                await heard.get()
    assert refused(logs) == set()


async def test_a_stream_is_read_and_refilled_with_the_documented_permissions(event: Callable[..., CloudEvent]) -> None:
    async with NatsServer(settings=USERS) as server:
        await apply_as_admin(server, "none")
        async with opened(server, "sales") as sales:
            assert [each.error for each in await NatsEventPublisher(sales, "sales").publish([event("a")])] == [None]
        with capture_logs() as logs:
            async with opened(server, "refill") as connection:
                publisher = NatsEventPublisher(connection, "sales")
                assert [each.error for each in await publisher.refill([event("b")], mark="m")] == [None]
                pages = [page async for page in publisher.contents.ids("shop")]
    assert [key for page in pages for _, key in page] == ["a", "b"]
    assert refused(logs) == set()


async def test_the_doctor_sees_everything_with_the_documented_permissions() -> None:
    async with NatsServer(settings=USERS) as server:
        await apply_as_admin(server, "none")
        with capture_logs() as logs:
            async with opened(server, "doctor") as connection:
                topology = NatsEventSubscription(connection, "shipping").topology([TYPE])
                seen = await inspect_broker(connection, topology)
                api = JetStreamApi(await connection.client("publish", timeout=5), connection.broker)
                assert list((await survey(api, topology)).consumers) == [("events-shop", "shipping")]
    assert (seen.problems, len(seen.streams), len(seen.consumers)) == ((), 1, 1)
    assert refused(logs) == set()


@pytest.mark.parametrize(
    ("user", "subject"),
    [
        ("storefront", "events.shop.order-placed.0"),
        ("storefront", "$JS.API.STREAM.DELETE.events-shop"),
        ("pricing", "$JS.API.STREAM.DELETE.events-shop"),
        ("pricing", "_INBOX_storefront.0123456789abcdef0123456789abcdef"),
        ("shipping", "$JS.API.CONSUMER.MSG.NEXT.events-shop.billing-p0"),
        ("shipping", "$JS.ACK.events-shop.billing-p0.1.1.1.1.0"),
        ("shipping", "events.shop.order-placed.0"),
        ("sales", "$JS.API.CONSUMER.CREATE.events-shop.x"),
        ("doctor", "$JS.API.STREAM.PURGE.events-shop"),
    ],
)
async def test_no_user_has_the_rights_of_another_part(page_server: NatsServer, user: str, subject: str) -> None:
    async with opened(page_server, user) as connection:
        client = await connection.client("publish", timeout=5)
        assert isinstance(client, AuthenticatedClient)
        told = asyncio.Event()
        client.on_denied(subject, told.set)
        await client.publish(subject, b"")
        async with asyncio.timeout(10):
            await told.wait()


@pytest.fixture(scope="module")
def page_server() -> Iterator[NatsServer]:
    server = NatsServer(settings=USERS)
    with asyncio.Runner() as runner:
        runner.run(server.start())
        yield server
        runner.run(server.stop())
