"""ForeignMessagesConformance: what a subscription makes of messages that our publishers did not send."""

import json

from mediator.testing.conformance.sample_events import TYPE, event
from mediator.testing.conformance.suite import needs
from mediator.testing.conformance.transport_capability import TransportCapability
from mediator.testing.conformance.transport_suite import TransportSuite

_ATTRIBUTES = {"specversion": "1.0", "id": "f1", "source": "legacy", "type": f"{TYPE}.v1"}

_foreign = needs(TransportCapability.FOREIGN_MESSAGES)


class ForeignMessagesConformance(TransportSuite):
    """What cannot be read is handed over whole, to be parked; it neither raises nor stops what follows."""

    @_foreign
    async def test_a_message_without_headers_is_delivered_as_no_event_with_its_problem(self) -> None:
        """`event` is None, `problem` says why, and the body is there as it came."""
        async with self.opened() as transport:
            assert transport.put is not None
            await transport.store(event("a", "k"))
            await transport.put(TYPE, {}, b"\xff no event")
            async with self.reading(transport) as reader:
                taken = await reader.take(2)
            (strange,) = [each for each in taken if each.event is None]
            assert strange.problem
            assert strange.data == b"\xff no event"
            assert strange.attempt == 1
            assert strange.sequence > 0

    @_foreign
    async def test_what_follows_a_foreign_message_is_delivered(self) -> None:
        """With an ordering too."""
        async with self.opened() as transport:
            assert transport.put is not None
            await transport.store(event("a"))
            await transport.put(TYPE, {}, b"")
            await transport.store(event("b"))
            async with self.reading(transport) as reader:
                assert sorted(await reader.take_ids(3)) == ["", "a", "b"]

    @_foreign
    async def test_a_foreign_message_can_be_put_back_and_terminated(self) -> None:
        """It is settled as any other delivery."""
        async with self.opened() as transport:
            assert transport.put is not None
            await transport.store(event("a"))
            async with self.reading(transport, ack_wait=0.5) as reader:
                await reader.take()
                await transport.put(TYPE, {}, b"?")
                await (await reader.hold_one()).nak(0)
                again = await reader.hold_one()
                assert again.attempt == 2
                await again.term("it is no event")
                await reader.nothing(0.8)

    @_foreign
    async def test_headers_come_as_they_were(self) -> None:
        """Also those that mean nothing to us."""
        async with self.opened() as transport:
            assert transport.put is not None
            await transport.store(event("a"))
            await transport.put(TYPE, {"X-Legacy": "7"}, b"?")
            async with self.reading(transport) as reader:
                (strange,) = [each for each in await reader.take(2) if each.event is None]
            assert {name.lower(): value for name, value in strange.headers.items()}["x-legacy"] == "7"

    @_foreign
    async def test_a_structured_cloudevent_is_read(self) -> None:
        """Attributes and data in one JSON document, as CloudEvents 1.0 has it for every protocol."""
        document = {**_ATTRIBUTES, "datacontenttype": "application/json", "data": {"n": 1}}
        async with self.opened() as transport:
            assert transport.put is not None
            await transport.store(event("a"))
            await transport.put(TYPE, {"content-type": "application/cloudevents+json"}, json.dumps(document).encode())
            async with self.reading(transport) as reader:
                found = {each.event.id: each.event for each in await reader.take(2) if each.event is not None}
            assert (found["f1"].source, found["f1"].type, json.loads(found["f1"].data)) == (
                "legacy",
                f"{TYPE}.v1",
                {"n": 1},
            )

    @_foreign
    async def test_a_broken_cloudevent_has_a_problem(self) -> None:
        """One without a source, of which nobody could tell duplicates."""
        document = {name: value for name, value in _ATTRIBUTES.items() if name != "source"}
        async with self.opened() as transport:
            assert transport.put is not None
            await transport.store(event("a"))
            await transport.put(TYPE, {"content-type": "application/cloudevents+json"}, json.dumps(document).encode())
            async with self.reading(transport) as reader:
                (broken,) = [each for each in await reader.take(2) if each.event is None]
            assert broken.problem

    @_foreign
    async def test_of_a_broken_cloudevent_the_type_and_the_key_are_told(self) -> None:
        """So that it holds back the later events of its key."""
        document = _ATTRIBUTES | {"partitionkey": "k", "time": "tomorrow"}
        async with self.opened() as transport:
            assert transport.put is not None
            await transport.store(event("a"))
            await transport.put(TYPE, {"content-type": "application/cloudevents+json"}, json.dumps(document).encode())
            async with self.reading(transport) as reader:
                (broken,) = [each for each in await reader.take(2) if each.event is None]
            assert (broken.remnant.type, broken.remnant.partitionkey) == (f"{TYPE}.v1", "k")
