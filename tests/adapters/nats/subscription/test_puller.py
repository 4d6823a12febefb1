"""Puller: lost requests, waiting deliveries, broken consumers and outages, also the second time."""

import asyncio
import itertools
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from structlog.testing import capture_logs

from mediator.distributed.inbox import Deliveries, Delivery
from mediator.nats import NatsEventSubscription
from mediator.nats.subscription.subscription import _shares
from mediator.nats.topology import DEFAULT_SETTINGS, StreamSettings
from mediator.nats.topology.consumers import consumer_config
from mediator.nats.topology.streams import stream_config
from tests.adapters.nats.offline import OfflineClient, OfflineConnection
from tests.unit.virtual_time import in_virtual_time, now, settle

TYPE = "shop.x"
NEXT = "$JS.API.CONSUMER.MSG.NEXT.*"
TWO = StreamSettings(partitions=2)


@pytest.fixture(autouse=True)
def clock(monkeypatch: pytest.MonkeyPatch) -> None:
    class Clock:
        monotonic = staticmethod(now)

    for module in ("puller", "delivery"):
        monkeypatch.setattr(f"mediator.nats.subscription.{module}.time", Clock)


class Broker:
    """A connection to a stream with the wanted consumers. The information of `broken` ones cannot be read."""

    def __init__(self, settings: StreamSettings = DEFAULT_SETTINGS) -> None:
        self.connection = OfflineConnection()
        self.settings = settings
        self.types = [TYPE]
        self.broken: set[str] = set()
        self.serve(self.connection.current)

    def serve(self, client: OfflineClient) -> OfflineClient:
        client.answer = self._answer
        return client

    async def _answer(self, subject: str, _body: bytes) -> dict[str, Any]:
        kind, _, name = subject.removeprefix("$JS.API.").rpartition(".")
        if kind == "STREAM.INFO":
            return {"config": stream_config("events", name.removeprefix("events-"), self.settings)}
        if name in self.broken:
            return {"error": {"code": 503, "err_code": 10008, "description": "no leader"}}
        ordering = "key" if self.settings is TWO else "none"
        groups = NatsEventSubscription(self.connection, "g", settings=self.settings)._groups(self.types, ordering)  # type: ignore[arg-type]
        for group in groups:
            for each in group.consumers():
                if each.name == name and kind.endswith(f".{group.stream}"):
                    return {"config": consumer_config(each), "created": "2026-01-01T00:00:00Z"}
        return {"error": {"code": 404, "err_code": 10014, "description": "consumer not found"}}

    @property
    def client(self) -> OfflineClient:
        return self.connection.current

    def requests(self, consumer: str = "g", stream: str = "events-shop") -> list[tuple[float, int, str]]:
        """Return the time, the size and the inbox of each pull request."""
        return [
            (at, json.loads(body)["batch"], reply)
            for at, subject, body, reply, _ in self.client.sent_to(NEXT)
            if subject.endswith(f".{stream}.{consumer}")
        ]

    async def send(
        self, sequence: int, *, consumer: str = "g", attempt: int = 1, remaining: int = 0, stream: str = "events-shop"
    ) -> None:
        """Answer the last request with an event."""
        reply = f"$JS.ACK.{stream}.{consumer}.{attempt}.{sequence}.{sequence}.1700000000000000000.{remaining}"
        headers = {"ce-specversion": "1.0", "ce-id": f"{sequence}", "ce-source": "s", "ce-type": "shop.x.v1"}
        to = self.requests(consumer, stream)[-1][2]
        assert await self.client.deliver(to, b"{}", headers=headers, reply=reply, published="events.shop.x.1")

    async def say(self, status: str, description: str = "", *, to: str = "", consumer: str = "g", **more: str) -> None:
        headers = {"Status": status, "Description": description, **{k.replace("_", "-"): v for k, v in more.items()}}
        await self.client.deliver(to or self.requests(consumer)[-1][2], headers=headers)

    def told(self, body: bytes) -> list[tuple[float, str]]:
        """Return the time and the event of each reply of a kind to the broker."""
        return [
            (at, subject.split(".")[5]) for at, subject, said, _, _ in self.client.sent_to("$JS.ACK.*") if said == body
        ]


@asynccontextmanager
async def pulling(
    broker: Broker, *, prefetch: int = 10, ack_wait: float = 30.0, ordered: bool = False
) -> AsyncIterator[Deliveries]:
    subscription = NatsEventSubscription(
        broker.connection,  # type: ignore[arg-type]
        "g",
        settings=broker.settings,
        ack_wait=ack_wait,
    )
    async with subscription.open(broker.types, prefetch=prefetch, ordering="key" if ordered else "none") as deliveries:
        await settle()
        yield deliveries


async def taken(deliveries: Deliveries) -> Delivery:
    async with asyncio.timeout(1):
        return await deliveries.next()


@in_virtual_time
async def test_a_request_without_heartbeats_is_repeated_after_its_time_and_one_with_heartbeats_is_not() -> None:
    broker = Broker()
    async with pulling(broker):
        assert [count for _, count, _ in broker.requests()] == [10]
        for _ in range(20):
            await asyncio.sleep(1.0)
            await broker.say("100", "Idle Heartbeat")
        assert len(broker.requests()) == 1
        for again in (2, 3, 4):
            began = now()
            while len(broker.requests()) < again:
                await asyncio.sleep(0.1)
            assert 2.5 <= now() - began <= 3.2
        addresses = [reply for _, _, reply in broker.requests()]
        assert len({*addresses}) == 4
        await broker.say("408", "Request Timeout", to=addresses[0])  # ignored, because the request was given up
        await settle()
        assert len(broker.requests()) == 4


@in_virtual_time
async def test_a_waiting_delivery_is_reported_in_progress_three_times_per_ack_wait_and_a_taken_one_is_not() -> None:
    broker = Broker()
    async with pulling(broker, ack_wait=9.0) as deliveries:
        await broker.send(1)
        await broker.send(2)
        taken_one = await taken(deliveries)
        for _ in range(60):
            await broker.say("100")
            await asyncio.sleep(1.0)
        beats = [at for at, sequence in broker.told(b"+WPI") if sequence == "2"]
        assert 18 <= len(beats) <= 21
        assert max(later - earlier for earlier, later in itertools.pairwise(beats)) <= 4.1
        assert [sequence for _, sequence in broker.told(b"+WPI") if sequence == "1"] == []
        assert (await taken(deliveries)).event is not None
        before = len(broker.told(b"+WPI"))
        await asyncio.sleep(20)
        assert len(broker.told(b"+WPI")) == before
        await taken_one.ack()


@in_virtual_time
async def test_a_delivery_that_the_broker_has_given_to_another_process_takes_no_slot() -> None:
    broker = Broker()
    async with pulling(broker, prefetch=1, ack_wait=6.0) as deliveries:
        for sequence in (1, 2, 3):
            await broker.send(sequence)
            delivery = await taken(deliveries)
            asked = len(broker.requests())
            for _ in range(4):
                await asyncio.sleep(3)
                await delivery.in_progress()
            assert len(broker.requests()) == asked
            began = now()
            while len(broker.requests()) == asked:
                await asyncio.sleep(0.1)
            assert 5.9 <= now() - began <= 7.0


@in_virtual_time
async def test_an_expired_request_is_repeated_at_once_and_a_refused_one_is_logged_and_retried_after_pauses() -> None:
    broker = Broker()
    with capture_logs() as logs:
        async with pulling(broker):
            for again in range(2, 5):
                await broker.say("408", "Request Timeout", Nats_Pending_Messages="10", Nats_Pending_Bytes="0")
                await settle()
                assert len(broker.requests()) == again
            for outage in range(2):
                broker.client.published.clear()
                began = now()
                while now() - began < 30:
                    asked = len(broker.requests())
                    while len(broker.requests()) == asked:
                        await asyncio.sleep(0.02)
                    await broker.say("409", "Exceeded MaxWaiting")
                assert 14 <= len(broker.requests()) <= 25
                times = [at for at, _, _ in broker.requests()]
                assert times[1] - times[0] <= 0.3
                assert max(later - earlier for earlier, later in itertools.pairwise(times)) <= 2.1
                while len(broker.requests()) == len(times):
                    await asyncio.sleep(0.02)
                await broker.send(outage + 1)  # the consumer works again
            await asyncio.sleep(1)
    told = [line["event"] for line in logs]
    assert told == ["not consuming"] * 2


@pytest.mark.parametrize("description", ["Leadership Change", "Server Shutdown"])
@in_virtual_time
async def test_a_routine_change_of_the_consumer_is_not_logged_and_the_consumer_is_checked_at_once(
    description: str,
) -> None:
    broker = Broker()
    with capture_logs() as logs:
        async with pulling(broker):
            for again in range(2, 5):
                asked = len(broker.client.requests)
                await broker.say("409", description)
                await settle()
                assert len(broker.requests()) == again
                assert len(broker.client.requests) > asked
    assert logs == []


@in_virtual_time
async def test_a_partition_in_trouble_delays_no_other_and_is_checked_until_it_works() -> None:
    broker = Broker(TWO)
    async with pulling(broker, ordered=True) as deliveries:
        for sequence in (1, 2):
            broker.broken = {"g-p1"}
            await broker.say("409", "Consumer Deleted", consumer="g-p1")
            broken = len(broker.requests("g-p1"))
            for number in range(5):
                await broker.send(10 * sequence + number, consumer="g-p0")
                await (await taken(deliveries)).ack()
                await settle()
            await asyncio.sleep(20)
            assert len(broker.requests("g-p1")) == broken
            broker.broken = set()
            began = now()
            while len(broker.requests("g-p1")) == broken:
                await asyncio.sleep(0.02)
            assert now() - began <= 2.1
            await broker.send(100 + sequence, consumer="g-p1")
            await (await taken(deliveries)).ack()
            await settle()


@in_virtual_time
async def test_a_partition_in_trouble_is_checked_after_growing_pauses_and_logged_once() -> None:
    broker = Broker(TWO)
    with capture_logs() as logs:
        async with pulling(broker, ordered=True) as deliveries:
            for trouble in range(2):
                broker.broken = {"g-p1"}
                await broker.say("409", "Leadership Change", consumer="g-p1")
                looked = len(broker.client.requests)
                for number in range(60):
                    await broker.send(100 * trouble + number, consumer="g-p0")
                    await (await taken(deliveries)).ack()
                    await broker.say("100", "Idle Heartbeat", consumer="g-p0")
                    await asyncio.sleep(0.5)
                tries = [subject for _, subject in broker.client.requests[looked:] if subject.endswith(".g-p1")]
                assert 14 <= len(tries) <= 22
                assert [line["event"] for line in logs] == ["not consuming"] * (trouble + 1)
                broker.broken = set()
                await asyncio.sleep(2.5)
                await broker.say("100", "Idle Heartbeat", consumer="g-p1")


@in_virtual_time
async def test_each_silent_partition_is_pulled_again_independently_of_the_others() -> None:
    broker = Broker(TWO)
    async with pulling(broker, ordered=True) as deliveries:
        for consumer, sequence in (("g-p0", 1), ("g-p1", 2)):
            await broker.send(sequence, consumer=consumer)
        await asyncio.sleep(21)
        assert [sequence for _, sequence in broker.told(b"+WPI")] == ["1", "2"] * 2
        for _ in range(2):
            await (await taken(deliveries)).ack()
        await settle()
        asked = [len(broker.requests(each)) for each in ("g-p0", "g-p1")]
        await asyncio.sleep(5.6)
        assert [len(broker.requests(each)) for each in ("g-p0", "g-p1")] == [each + 1 for each in asked]


@in_virtual_time
async def test_a_slow_consumer_is_not_checked_more_often_because_another_one_is_in_trouble() -> None:
    broker = Broker(TWO)
    broker.broken = {"g-p0"}
    answer = broker.client.answer

    async def slow(subject: str, body: bytes) -> dict[str, Any]:
        if subject.endswith(".g-p1"):
            await asyncio.sleep(1.9)
        return await answer(subject, body)

    broker.client.answer = slow
    async with pulling(broker, ordered=True):
        await asyncio.sleep(1.8)
        assert sum(subject.endswith(".g-p1") for _, subject in broker.client.requests) == 1


@in_virtual_time
async def test_two_concurrent_troubles_are_logged_once_each() -> None:
    broker = Broker()
    answer = broker.client.answer

    async def other_settings(subject: str, body: bytes) -> dict[str, Any]:
        if subject.startswith("$JS.API.STREAM.INFO"):
            return {"config": stream_config("events", "shop", StreamSettings(max_age=7200.0))}
        return await answer(subject, body)

    broker.client.answer = other_settings
    with capture_logs() as logs:
        async with pulling(broker):
            for trouble in (1, 2):
                broker.broken = {"g"}
                broker.connection.lose()
                broker.connection.reconnect()
                await asyncio.sleep(60)
                broker.broken = set()
                await asyncio.sleep(3)
                await broker.say("100", "Idle Heartbeat")  # everything works again except the stream
                assert [line["event"] for line in logs].count("not consuming") == trouble
    assert [line["event"] for line in logs].count("the stream differs") <= 2


@in_virtual_time
async def test_a_puller_pulls_at_once_after_each_outage_on_any_client_and_leaves_nothing_behind() -> None:
    broker = Broker()
    before, tasks = broker.connection.counts(), asyncio.all_tasks()
    async with pulling(broker) as deliveries:
        for outage in range(4):
            broker.connection.lose()
            await asyncio.sleep(60)
            assert len(broker.connection.asked) <= 70
            broker.connection.asked.clear()
            broker.client.published.clear()
            client = broker.serve(OfflineClient()) if outage % 2 else None
            broker.connection.reconnect(client=client)
            await asyncio.sleep(0.2)
            assert [count for _, count, _ in broker.requests()] == [10]
            assert len(broker.client.subscriptions) == 1
            await broker.send(outage + 1)
            await (await taken(deliveries)).ack()
    assert broker.connection.counts() == before
    assert asyncio.all_tasks() == tasks


@in_virtual_time
async def test_a_consumer_checked_through_an_earlier_connection_is_checked_again() -> None:
    broker, go = Broker(), asyncio.Event()
    answer = broker.client.answer

    async def slow(subject: str, body: bytes) -> dict[str, Any]:
        if subject == "$JS.API.CONSUMER.INFO.events-shop.g":
            await go.wait()
        return await answer(subject, body)

    broker.client.answer = slow
    async with pulling(broker):
        for _ in range(2):
            go.clear()
            broker.connection.lose()
            broker.connection.reconnect()
            await asyncio.sleep(1)
            broker.connection.lose()
            broker.connection.reconnect()
            looked = sum(subject.endswith(".g") for _, subject in broker.client.requests)
            go.set()
            await asyncio.sleep(1)
            assert sum(subject.endswith(".g") for _, subject in broker.client.requests) == looked + 1
            assert broker.requests() != []


@in_virtual_time
async def test_a_settled_delivery_causes_a_new_request_at_once() -> None:
    broker = Broker()
    async with pulling(broker, prefetch=1) as deliveries:
        for sequence in range(1, 6):
            assert len(broker.requests()) == sequence
            await broker.send(sequence)
            delivery = await taken(deliveries)
            await (delivery.ack() if sequence % 2 else delivery.nak(0))
            await settle()
        assert now() == 0.0


@in_virtual_time
async def test_a_served_request_causes_a_new_request_at_once() -> None:
    broker = Broker()
    async with pulling(broker, prefetch=4) as deliveries:
        for sequence in (1, 2, 3):
            await broker.send(sequence)
            await (await taken(deliveries)).ack()
        await settle()
        assert len(broker.requests()) >= 2
        await broker.send(4)
        await settle()
        assert now() == 0.0


@in_virtual_time
async def test_a_delivery_settled_during_a_request_causes_another_request_at_once() -> None:
    broker, held = Broker(), list[Delivery]()
    async with pulling(broker, prefetch=2) as deliveries:
        for sequence in (1, 2):
            await broker.send(sequence)
        first, second = await taken(deliveries), await taken(deliveries)
        await settle()
        held.append(second)

        async def on_publish(subject: str, _data: bytes, _reply: str, _headers: dict[str, str]) -> None:
            if ".MSG.NEXT." in subject and held:
                await held.pop().ack()

        broker.client.on_publish = on_publish
        before = len(broker.requests())
        await first.ack()
        await settle()
        assert (len(broker.requests()) - before, now()) == (2, 0.0)


@in_virtual_time
async def test_every_partition_is_requested_again_after_an_outage() -> None:
    broker = Broker(TWO)
    async with pulling(broker, ordered=True):
        for outage in (1, 2):
            broker.connection.lose()
            await asyncio.sleep(1)
            broker.connection.reconnect()
            await asyncio.sleep(0.3)
            assert [len(broker.requests(f"g-p{number}")) for number in range(2)] == [outage + 1] * 2


@in_virtual_time
async def test_each_call_of_next_waits_for_one_delivery() -> None:
    broker = Broker()
    async with pulling(broker) as deliveries:
        for sequence in (1, 2, 3):
            waiting = asyncio.create_task(deliveries.next())
            await asyncio.sleep(1)
            assert not waiting.done()
            await broker.send(sequence)
            assert (await waiting).sequence == sequence


@pytest.mark.parametrize(("prefetch", "handed_back"), [(1, ["2"]), (2, [])])
@in_virtual_time
async def test_held_deliveries_never_exceed_fewer_slots_than_partitions(prefetch: int, handed_back: list[str]) -> None:
    broker = Broker(TWO)
    async with pulling(broker, ordered=True, prefetch=prefetch) as deliveries:
        await broker.send(1, consumer="g-p0")
        await broker.send(2, consumer="g-p1")
        assert [sequence for _, sequence in broker.told(b"-NAK")] == handed_back
        await (await taken(deliveries)).ack()
        await settle()
        assert len(broker.requests("g-p1")) == (2 if handed_back else 1)


@in_virtual_time
async def test_a_waiting_delivery_keeps_its_slot_after_its_process_was_frozen(monkeypatch: pytest.MonkeyPatch) -> None:
    broker, frozen = Broker(), 0.0

    class Clock:
        monotonic = staticmethod(lambda: now() + frozen)

    for module in ("puller", "delivery"):
        monkeypatch.setattr(f"mediator.nats.subscription.{module}.time", Clock)
    async with pulling(broker, prefetch=1) as deliveries:
        for sequence in (1, 2):
            await broker.send(sequence)
            frozen += 100.0
            await asyncio.sleep(1)
            assert len(broker.requests()) == sequence
            await (await taken(deliveries)).ack()
            await settle()
            assert len(broker.requests()) == sequence + 1


@in_virtual_time
async def test_the_partitions_of_several_streams_share_the_slots() -> None:
    broker = Broker(TWO)
    broker.types = [TYPE, "billing.x"]
    places = [(stream, f"g-p{number}") for stream in ("events-shop", "events-billing") for number in range(2)]
    async with pulling(broker, ordered=True, prefetch=3) as deliveries:
        for sequence, (stream, consumer) in enumerate(places, 1):
            await broker.send(sequence, consumer=consumer, stream=stream)
        assert [(await taken(deliveries)).sequence for _ in range(3)] == [1, 2, 3]
        assert [sequence for _, sequence in broker.told(b"-NAK")] == ["4"]


@pytest.mark.parametrize("ordered", [False, True])
@in_virtual_time
async def test_a_paused_puller_requests_nothing_until_it_is_resumed_and_then_at_once(ordered: bool) -> None:
    broker = Broker(TWO if ordered else DEFAULT_SETTINGS)
    consumers = ["g-p0", "g-p1"] if ordered else ["g"]

    def asked() -> int:
        return sum(len(broker.requests(each)) for each in consumers)

    async with pulling(broker, ordered=ordered, prefetch=4) as deliveries:
        for again in (1, 2):
            assert asked() == again * len(consumers)
            deliveries.pause()
            for each in consumers:
                await broker.say("408", "Request Timeout", consumer=each)
            await asyncio.sleep(60)
            assert asked() == again * len(consumers)
            began = now()
            deliveries.resume()
            await settle()
            assert (asked(), now()) == ((again + 1) * len(consumers), began)


@pytest.mark.parametrize("ordered", [False, True])
@in_virtual_time
async def test_no_trouble_and_no_outage_makes_a_paused_puller_request_anything(ordered: bool) -> None:
    broker = Broker(TWO if ordered else DEFAULT_SETTINGS)
    consumers = ["g-p0", "g-p1"] if ordered else ["g"]
    async with pulling(broker, ordered=ordered, prefetch=4) as deliveries:
        deliveries.pause()
        await broker.say("409", "Leadership Change", consumer=consumers[0])
        await asyncio.sleep(20)  # the others are silent
        assert [len(broker.requests(each)) for each in consumers] == [1] * len(consumers)
        for client in (None, broker.serve(OfflineClient())):
            broker.connection.lose()
            await asyncio.sleep(5)
            broker.client.published.clear()
            looked = len((client or broker.client).requests)
            broker.connection.reconnect(client=client)
            await asyncio.sleep(20)
            assert len(broker.client.requests) > looked  # the consumers are set up
            assert broker.client.sent_to(NEXT) == []
        deliveries.resume()
        await settle()
        assert [len(broker.requests(each)) for each in consumers] == [1] * len(consumers)
        for sequence, each in enumerate(consumers, 1):
            await broker.send(sequence, consumer=each)
            assert (await taken(deliveries)).sequence == sequence


@in_virtual_time
async def test_a_puller_that_is_paused_before_it_is_set_up_requests_nothing() -> None:
    broker = Broker()
    broker.connection.lose()
    async with pulling(broker) as deliveries:
        deliveries.pause()
        broker.connection.reconnect()
        await asyncio.sleep(20)
        assert broker.client.sent_to(NEXT) == []
        assert broker.client.requests != []
        deliveries.resume()
        await settle()
        assert [count for _, count, _ in broker.requests()] == [10]


@in_virtual_time
async def test_a_pause_during_the_requests_of_a_round_stops_the_rest_of_the_round() -> None:
    broker = Broker(TWO)
    async with pulling(broker, ordered=True) as deliveries:
        for each in ("g-p0", "g-p1"):
            await broker.say("408", "Request Timeout", consumer=each)

        async def on_publish(_subject: str, _data: bytes, _reply: str, _headers: dict[str, str]) -> None:
            deliveries.pause()

        broker.client.on_publish = on_publish
        await asyncio.sleep(20)
        assert [len(broker.requests(each)) for each in ("g-p0", "g-p1")] == [2, 1]


@in_virtual_time
async def test_deliveries_that_were_requested_before_a_pause_are_returned_and_kept_alive_during_it() -> None:
    broker = Broker()
    async with pulling(broker, prefetch=3, ack_wait=9.0) as deliveries:
        await broker.send(1)
        held = await taken(deliveries)
        deliveries.pause()
        await broker.send(2)
        await broker.send(3)
        await asyncio.sleep(60)
        beats = [at for at, sequence in broker.told(b"+WPI") if sequence == "2"]
        assert max(later - earlier for earlier, later in itertools.pairwise(beats)) <= 4.1
        assert len(beats) >= 18
        await held.in_progress()
        assert broker.told(b"+WPI")[-1][1] == "1"
        await held.ack()
        second, third = await taken(deliveries), await taken(deliveries)
        assert (second.sequence, third.sequence) == (2, 3)
        await second.nak(5.0)
        await third.term("parked")
        await asyncio.sleep(20)
        assert len(broker.requests()) == 1
        assert [sequence for _, sequence in broker.told(b'-NAK {"delay": 5000000000}')] == ["2"]
        assert [sequence for _, sequence in broker.told(b"-NAK")] == []
        deliveries.resume()
        await settle()
        assert [count for _, count, _ in broker.requests()] == [3, 3]


@in_virtual_time
async def test_all_streams_and_partitions_are_paused_and_get_their_slots_after_it() -> None:
    broker = Broker(TWO)
    broker.types = [TYPE, "billing.x"]
    places = [(stream, f"g-p{number}") for stream in ("events-shop", "events-billing") for number in range(2)]
    async with pulling(broker, ordered=True, prefetch=1) as deliveries:
        for sequence, (stream, consumer) in enumerate(places, 1):
            await broker.send(sequence, consumer=consumer, stream=stream)
        held = await taken(deliveries)
        assert [sequence for _, sequence in broker.told(b"-NAK")] == ["2", "3", "4"]
        deliveries.pause()
        await held.ack()
        await asyncio.sleep(60)
        assert [len(broker.requests(consumer, stream)) for stream, consumer in places] == [1] * 4
        deliveries.resume()
        waiting = dict(enumerate(places[1:], 2))
        while waiting:
            await settle()
            [sequence] = [each for each, (stream, name) in waiting.items() if len(broker.requests(name, stream)) == 2]
            stream, consumer = waiting.pop(sequence)
            await broker.send(sequence, consumer=consumer, attempt=2, stream=stream)
            delivery = await taken(deliveries)
            assert (delivery.sequence, delivery.attempt) == (sequence, 2)
            await delivery.ack()


@in_virtual_time
async def test_a_delivery_that_arrives_during_leaving_is_handed_back() -> None:
    broker = Broker()
    async with pulling(broker):
        await broker.send(1)
        [(number, subscription)] = broker.client.subscriptions.items()

        async def late(_subject: str, _body: bytes) -> dict[str, Any]:
            broker.client.subscriptions[number] = subscription  # the delivery was already on its way
            await broker.send(2)
            del broker.client.subscriptions[number]
            return {}

        broker.client.answer = late
    assert [sequence for _, sequence in broker.told(b"-NAK")] == ["1", "2"]


@in_virtual_time
async def test_an_unexpected_failure_of_the_puller_ends_waiting_for_a_delivery() -> None:
    broker = Broker()

    async def broken(_subject: str, _body: bytes) -> dict[str, Any]:
        await asyncio.sleep(1)
        raise LookupError("unforeseen")

    broker.client.answer = broken
    async with pulling(broker) as deliveries:
        for _ in range(2):  # later calls fail, too
            with pytest.raises(ExceptionGroup):
                async with asyncio.timeout(10):
                    await deliveries.next()


@in_virtual_time
async def test_a_puller_with_a_closed_connection_does_not_spin() -> None:
    broker = Broker()
    broker.connection.closed = True
    async with pulling(broker):
        await asyncio.sleep(10)
        assert 50 <= len(broker.connection.asked) <= 110


@in_virtual_time
async def test_leaving_hands_back_untaken_deliveries_and_ends_within_about_a_second_without_answers() -> None:
    broker = Broker()
    async with pulling(broker) as deliveries:
        for sequence in (1, 2, 3):
            await broker.send(sequence)
        await taken(deliveries)
        broker.client.answer = _never
        began = now()
    assert now() - began <= 1.5
    assert [sequence for _, sequence in broker.told(b"-NAK")] == ["2", "3"]


async def _never(_subject: str, _body: bytes) -> dict[str, Any]:
    await asyncio.Event().wait()
    return {}


@in_virtual_time
async def test_a_delivery_without_a_slot_is_handed_back_at_once() -> None:
    broker = Broker()
    async with pulling(broker, prefetch=2) as deliveries:
        for sequence in (1, 2, 3):
            await broker.send(sequence)
        assert [sequence for _, sequence in broker.told(b"-NAK")] == ["3"]
        for sequence in (1, 2):
            delivery = await taken(deliveries)
            assert delivery.sequence == sequence
            await delivery.ack()
        await settle()
        assert [count for _, count, _ in broker.requests()][-1] in (1, 2)


@pytest.mark.parametrize(
    ("prefetch", "streams", "shares"), [(11, 3, [4, 4, 3]), (2, 3, [1, 1, 1]), (3, 3, [1, 1, 1]), (64, 1, [64])]
)
def test_the_prefetch_is_shared_out_among_the_streams(prefetch: int, streams: int, shares: list[int]) -> None:
    assert _shares(prefetch, streams) == shares
