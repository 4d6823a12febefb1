"""StorageConformance: the suites of a database's unit of work, outbox, inbox and parking in one."""

from mediator.testing.conformance.cancellation import CancellationConformance
from mediator.testing.conformance.delayed_events import DelayedEventsConformance
from mediator.testing.conformance.durability import DurabilityConformance
from mediator.testing.conformance.inbox import InboxConformance
from mediator.testing.conformance.outbox import OutboxConformance
from mediator.testing.conformance.parking import ParkingConformance
from mediator.testing.conformance.refused_events import RefusedEventsConformance
from mediator.testing.conformance.unit_of_work import UnitOfWorkConformance


class StorageConformance(
    UnitOfWorkConformance,
    CancellationConformance,
    OutboxConformance,
    DelayedEventsConformance,
    RefusedEventsConformance,
    InboxConformance,
    ParkingConformance,
    DurabilityConformance,
):
    """What the storage of an application must pass; to work at one part of an adapter, subclass that part's suite."""
