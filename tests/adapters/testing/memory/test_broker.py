"""The broker in memory, where it does more than a real one."""

from datetime import UTC, datetime

from mediator.distributed.cloudevents import CloudEvent
from mediator.testing import InMemoryBroker


def test_events_that_the_broker_lost_are_forgotten_and_no_others() -> None:
    broker = InMemoryBroker()
    [short, dotted] = [CloudEvent(each, "shop.sold.v1", datetime.now(UTC), b"{}", "shop") for each in ("a", "a.b")]
    assert broker.store(short)
    assert broker.store(dotted)
    broker.lose("a")
    assert not broker.store(dotted)
    assert broker.store(short)
    broker.lose("a.b")
    assert broker.store(dotted)
