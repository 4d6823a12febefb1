"""A stranger who knows the inbox of a consumer can send to it, but nothing is handled, acknowledged or sent for it."""

import asyncio

import pytest
from nats.aio.client import Client
from nats.aio.msg import Msg
from structlog.testing import capture_logs

from mediator.nats import NatsConnection, NatsEventSubscription
from tests.adapters.nats.deliveries import publish, take
from tests.adapters.nats.subscription.test_puller import Broker, pulling
from tests.unit.virtual_time import in_virtual_time, settle

TYPE = "shop.order-placed"
EVENT = {"ce-specversion": "1.0", "ce-type": f"{TYPE}.v1", "ce-source": "stranger", "ce-id": "forged"}
OWN = "events-shop.g.1.2.2.1700000000000000000.0"
REPLIES = [
    f"$JS.ACK.{OWN}",  # the second event waits for its acknowledgement
    f"$JS.ACK._.account.{OWN}.token",
    "$JS.ACK.events-shop.other.1.1.1.1700000000000000000.0",
    "$JS.ACK.events-billing.g.1.1.1.1700000000000000000.0",
    "$JS.ACK.",
    "$JS.ACK.a.b.c.d.e.f.g",
    f"$JS.ACK.events-shop.g.{10**40}.2.2.1.0",
    "$JS.API.STREAM.DELETE.events-shop",
    "events.shop.order-placed.0",
    "",
]


class Stranger:
    """A client that sees every message, and so knows the inboxes of consumers."""

    def __init__(self, client: Client, prefix: str) -> None:
        self.client = client
        self.inbox: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self.sent: list[str] = []
        self._prefix = prefix

    async def heard(self, message: Msg) -> None:
        if message.subject.startswith(f"$JS.API.CONSUMER.MSG.NEXT.{self._prefix}-") and not self.inbox.done():
            self.inbox.set_result(message.reply)
        self.sent.append(message.subject)


@pytest.fixture
async def stranger(raw: Client, prefix: str) -> Stranger:
    stranger = Stranger(raw, prefix)
    await raw.subscribe(">", cb=stranger.heard)
    await raw.flush()
    return stranger


@pytest.mark.parametrize("headers", [EVENT, None, {"Status": "100"}, {"Status": "x", "Description": "y"}])
async def test_a_forged_message_to_the_inbox_of_a_consumer_is_not_answered(
    connection: NatsConnection, stranger: Stranger, prefix: str, event, headers
) -> None:
    await publish(connection, prefix, event("1"))
    subscription = NatsEventSubscription(connection, "g", prefix=prefix)
    with capture_logs() as logs:
        async with asyncio.timeout(20), subscription.open([TYPE], prefetch=10) as deliveries:
            assert (await take(deliveries)).event.id == "1"
            inbox = await stranger.inbox
            chosen = [f"$JS.API.STREAM.DELETE.{prefix}-shop", f"{prefix}.elsewhere", f"_INBOX.{'x' * 22}"]
            for reply in 5 * chosen:
                for subject in (inbox, f"{inbox.rpartition('.')[0]}.99", f"{inbox.rsplit('.', 2)[0]}.x.y"):
                    await stranger.client.publish(subject, b"{}", reply, headers)
            await stranger.client.flush()
            await publish(connection, prefix, event("2"))
            assert (await take(deliveries)).event.id == "2"
            assert not {*chosen} & {*stranger.sent}
    assert len([line for line in logs if line["event"] == "message to the inbox ignored"]) == 10  # for 45 messages


@pytest.mark.parametrize("own_subject", [True, False], ids=["to the inbox", "of another stream"])
@pytest.mark.parametrize("reply", REPLIES)
@in_virtual_time
async def test_no_reply_subject_makes_a_message_a_delivery(reply: str, own_subject: bool) -> None:
    """Newer servers refuse reply subjects of clients that begin with `$JS.ACK.`."""
    broker = Broker()
    async with pulling(broker) as deliveries:
        await settle()
        await broker.send(1)
        await broker.send(2)
        taken = [await deliveries.next(), await deliveries.next()]
        [*before] = broker.client.published
        inbox = broker.requests()[-1][2]
        if own_subject or OWN not in reply:
            published = inbox if own_subject else "events.billing.paid.1"
            await broker.client.deliver(inbox, b"{}", headers=EVENT, reply=reply, published=published)
        await settle()
        assert broker.client.published == before
        await broker.send(3)
        assert [each.sequence for each in (*taken, await deliveries.next())] == [1, 2, 3]
