"""Events arrive through the broker exactly as they were added."""

import asyncio
import contextlib
import uuid

from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from mediator import DistributedEvent
from mediator.context import MessageContext
from mediator.distributed.events import decode_event
from mediator.distributed.unit_of_work.broker import utc_now
from mediator.distributed.unit_of_work.running import CollectedEvent
from mediator.errors import EventError
from mediator.fidelity import change_of
from mediator.msgspec import MsgspecCodec
from mediator.nats import NatsEventSubscription, NatsServer, open_connection
from tests.adapters.nats.deliveries import publish, take
from tests.adapters.stored_events import CLASSES, EVENTS

TEXTS = st.text(max_size=20).filter(str.isprintable)  # texts for ids and for a message context


async def check(url: str, prefix: str, events: list[DistributedEvent], flow: dict[str, str], ids: list[str]) -> None:
    codec, sent = MsgspecCodec(), {}
    for added, event_id in zip(events, ids, strict=False):
        context = MessageContext("m", flow["correlation"] or "c", causation_id=flow["causation"] or None)
        with contextlib.suppress(EventError):
            envelope = CollectedEvent(added, event_id, utc_now(), context).encode(codec, 100_000)
            sent[event_id] = envelope, added
    async with open_connection(url) as connection:
        await connection.client("publish", timeout=10)
        await publish(connection, prefix, *(envelope for envelope, _ in sent.values()))
        types = [each.event_type for each in CLASSES]
        async with NatsEventSubscription(connection, "g", prefix=prefix).open(types, prefetch=50) as deliveries:
            for _ in range(len(sent)):
                delivery = await take(deliveries)
                assert delivery.event is not None
                envelope, added = sent.pop(delivery.event.id)
                read = decode_event(codec, delivery.event.type, delivery.event.data, type(added))
                assert change_of(added, read) is None
                assert delivery.event.partitionkey == added.partition_key
                assert delivery.event.extensions == envelope.extensions
                assert delivery.event.time == envelope.time
                await delivery.ack()


@settings(
    max_examples=15,
    phases=[Phase.generate],
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(
    events=st.lists(EVENTS, min_size=1, max_size=12),
    flow=st.fixed_dictionaries({"correlation": TEXTS, "causation": TEXTS}),
    ids=st.lists(TEXTS.filter(bool), min_size=12, max_size=12, unique=True),
)
def test_an_event_arrives_unchanged(shared_server: NatsServer, events, flow, ids):
    asyncio.run(check(shared_server.url, f"p{uuid.uuid4().hex[:12]}", events, flow, ids))
