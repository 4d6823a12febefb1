"""PublisherConformance: the promises of `EventPublisher` as test cases."""

import asyncio
from dataclasses import replace

from mediator.errors import EventHeldBackError, EventRefusedError, PublisherUnavailableError
from mediator.testing.conformance.suite import needs
from mediator.testing.conformance.transport import TransportCapability, TransportSuite, apart, event, events, in_order

_BOUND = 20.0
"""Seconds within which a publisher must return during an outage."""


class PublisherConformance(TransportSuite):
    """The promises that the relay of the outbox depends on."""

    async def test_every_event_has_a_result_in_the_order_given(self) -> None:
        """`publish` returns one result for each event. The result contains the unchanged event."""
        async with self.opened() as transport:
            sent = events(5, "k")
            await transport.store(event("first", "k"))
            results = await transport.publisher.publish(sent)
            expected = [(each, None, False) for each in sent]
            assert [(result.event, result.error, result.duplicate) for result in results] == expected

    async def test_publishing_nothing_does_nothing(self) -> None:
        """Without events, `publish` returns no results."""
        async with self.opened() as transport:
            assert list(await transport.publisher.publish([])) == []

    async def test_a_stored_event_is_delivered(self) -> None:
        """A result without an error means that the broker has stored the event."""
        async with self.reading_of(*events(5, "k")) as reader:
            assert await reader.take_ids(5) == ["0", "1", "2", "3", "4"]
            await reader.nothing()

    async def test_an_event_without_a_source_gets_the_application_of_the_publisher(self) -> None:
        """The application becomes the source of the event. An event that already has a source keeps its source."""
        async with self.opened() as transport:
            foreign = replace(event("b", "k"), source="elsewhere")
            await transport.store(event("a", "k"), foreign)
            async with self.reading(transport) as reader:
                taken = [delivery.event for delivery in await reader.take(2)]
            assert taken[0] is not None
            assert taken[0].source
            assert taken[1] == foreign

    async def test_all_attributes_and_data_are_delivered_unchanged(self) -> None:
        """Keys, ids and extensions may be any text, and data may be any bytes."""
        hostile = 'a\r\nb: c 100% ä€😀 "q" * > \t $JS.x'
        sent = replace(
            event(hostile, hostile, data=bytes(range(256))),
            source="über",
            datacontenttype="application/octet-stream",
            extensions={"correlationid": hostile, "tenant": "münchen"},
        )
        async with self.reading_of(sent) as reader:
            assert (await reader.take())[0].event == sent

    async def test_an_event_may_have_no_data(self) -> None:
        """Empty data are delivered as empty data."""
        async with self.reading_of(event("a", data=b"")) as reader:
            (taken,) = await reader.take()
        assert taken.data == b""
        assert taken.event is not None
        assert taken.event.data == b""

    async def test_many_events_are_stored_once_and_in_order_within_each_key(self) -> None:
        """One call can publish several hundred events."""
        sent = [event(f"{n}", f"k{n % 7}" if n % 3 else None) for n in range(300)]
        async with self.reading_of(*sent, prefetch=64) as reader:
            taken = await reader.take_ids(300)
            await reader.nothing()
        assert sorted(taken, key=int) == [each.id for each in sent]
        assert in_order(taken, sent)

    async def test_consecutive_calls_keep_the_order(self) -> None:
        """The events of a later call are stored after the events of an earlier call."""
        sent = [event(f"{n}", "k") for n in range(30)]
        async with self.opened() as transport:
            for number in range(0, 30, 5):
                await transport.store(*sent[number : number + 5])
            async with self.reading(transport) as reader:
                assert await reader.take_ids(30) == [each.id for each in sent]

    async def test_the_events_of_concurrent_calls_are_all_stored(self) -> None:
        """Several calls of `publish` may run concurrently. The events of each call keep their order."""
        calls = [[event(f"{call}-{n}", f"k{call}") for n in range(20)] for call in range(10)]
        async with self.opened() as transport:
            await asyncio.gather(*(transport.store(*call) for call in calls))
            async with self.reading(transport, prefetch=64) as reader:
                taken = await reader.take_ids(200)
            assert in_order(taken, [each for call in calls for each in call])

    async def test_one_call_may_publish_events_of_several_domains(self) -> None:
        """The caller need not know whether the domains share a stream."""
        async with self.reading_of(
            event("a"), event("b", event_type="store.filled.v1"), event("c"), types=("store.filled",)
        ) as reader:
            assert await reader.take_ids() == ["b"]

    @needs(TransportCapability.DEDUPLICATION)
    async def test_an_event_that_is_sent_again_is_stored_once(self) -> None:
        """If a relay is killed between sending and settling, the next relay sends the same events again."""
        async with self.holding(event("a", "k")) as transport:
            results = await transport.publisher.publish([event("a", "k"), event("b", "k")])
            assert [(result.error, result.duplicate) for result in results] == [(None, True), (None, False)]
            async with self.reading(transport) as reader:
                assert await reader.take_ids(2) == ["a", "b"]
                await reader.nothing()

    @needs(TransportCapability.DEDUPLICATION)
    async def test_a_batch_that_was_stored_in_part_can_be_sent_again(self) -> None:
        """The relay sends the whole batch again, and each event is stored once."""
        async with self.holding(*events(60, "k")[::7]) as transport:
            results = await transport.publisher.publish(events(60, "k"))
            assert {result.error for result in results} == {None}
            async with self.reading(transport) as reader:
                assert sorted(await reader.take_ids(60), key=int) == [f"{n}" for n in range(60)]
                await reader.nothing()

    @needs(TransportCapability.DEDUPLICATION)
    async def test_events_that_are_sent_concurrently_are_stored_once(self) -> None:
        """A relay may lose its lock without noticing. Two relays may then send the same events."""
        async with self.opened() as transport:
            await asyncio.gather(*(transport.store(*events(20, "k")) for _ in range(3)))
            async with self.reading(transport) as reader:
                assert sorted(await reader.take_ids(20), key=int) == [f"{n}" for n in range(20)]
                await reader.nothing()

    @needs(TransportCapability.DEDUPLICATION)
    async def test_the_events_of_a_cancelled_call_can_be_sent_again(self) -> None:
        """After a cancellation, the caller does not know which events are stored."""
        async with self.holding(event("first")) as transport:
            sending = asyncio.ensure_future(transport.publisher.publish(events(50, "k")))
            await asyncio.sleep(0)
            sending.cancel()
            await asyncio.wait({sending}, timeout=self.patience)
            assert sending.done()
            await transport.store(*events(50, "k"))
            async with self.reading(transport, prefetch=64) as reader:
                taken = await reader.take_ids(51)
                await reader.nothing()
            assert sorted(taken) == sorted(["first", *(f"{n}" for n in range(50))])

    @needs(TransportCapability.OUTAGE)
    async def test_an_outage_is_reported_in_the_results(self) -> None:
        """`publish` returns in time, and each result has a `PublisherUnavailableError`.

        An event behind a failed event of the same key may get an `EventHeldBackError` instead.
        """
        async with self.holding(event("a", "k")) as transport:
            async with transport.outage(), asyncio.timeout(_BOUND):
                results = await transport.publisher.publish([event("b", "k"), event("c"), event("d", "k")])
            assert [result.event.id for result in results] == ["b", "c", "d"]
            *first, last = (type(result.error) for result in results)
            assert first == [PublisherUnavailableError, PublisherUnavailableError]
            assert last in (PublisherUnavailableError, EventHeldBackError)

    @needs(TransportCapability.OUTAGE)
    async def test_events_that_failed_in_an_outage_can_be_sent_again(self) -> None:
        """The same publisher works again after the outage, and the broker still has the earlier events."""
        async with self.holding(event("a", "k")) as transport:
            async with transport.outage():
                await transport.publisher.publish([event("b", "k"), event("c", "k")])
            await transport.store(event("b", "k"), event("c", "k"))
            async with self.reading(transport) as reader:
                assert await reader.take_ids(3) == ["a", "b", "c"]

    @needs(TransportCapability.OUTAGE)
    async def test_waiting_for_recovery_ends_in_time(self) -> None:
        """`wait_for_recovery` returns False if the broker has not recovered after the given seconds."""
        async with self.holding(event("a")) as transport, transport.outage():
            await transport.publisher.publish([event("b")])
            async with asyncio.timeout(_BOUND):
                assert await transport.publisher.wait_for_recovery(0.1) is False

    @needs(TransportCapability.SIZE_LIMIT)
    async def test_an_event_that_is_too_large_is_refused(self) -> None:
        """The result has an `EventRefusedError`, so the relay parks the event. The other events are stored."""
        before, after = apart(2)
        async with self.opened() as transport:
            too_large = event("too large", "k", data=b" " * (transport.largest + 1))
            await transport.store(event("first", "first"))
            results = await transport.publisher.publish([before, too_large, after])
            assert [type(result.error) for result in results] == [type(None), EventRefusedError, type(None)]

    @needs(TransportCapability.SIZE_LIMIT)
    async def test_an_event_behind_a_refused_event_of_its_key_is_not_sent(self) -> None:
        """The later event must not overtake the refused event. The later event's result has an `EventHeldBackError`."""
        async with self.opened() as transport:
            too_large = event("too large", "k", data=b" " * (transport.largest + 1))
            await transport.store(event("first", "k"))
            results = await transport.publisher.publish([too_large, event("next", "k"), event("other", "other")])
            assert [type(result.error) for result in results] == [EventRefusedError, EventHeldBackError, type(None)]
            async with self.reading(transport) as reader:
                assert sorted(await reader.take_ids(2)) == ["first", "other"]
                await reader.nothing()
