"""The broker in memory: the features that a real broker lacks."""

from datetime import UTC, datetime

from mediator.distributed.cloudevents import CloudEvent
from mediator.testing import InMemoryBroker


def test_the_broker_forgets_only_lost_events() -> None:
    broker = InMemoryBroker()
    [short, dotted] = [CloudEvent(each, "shop.sold.v1", datetime.now(UTC), b"{}", "shop") for each in ("a", "a.b")]
    assert broker.store(short)
    assert broker.store(dotted)
    broker.lose("a")
    assert not broker.store(dotted)
    assert broker.store(short)
    broker.lose("a.b")
    assert broker.store(dotted)
