"""Units of work: one transaction, the events that it collects, and the port to a database."""

from mediator.distributed.unit_of_work.broker import DistributedEventBroker, check_event
from mediator.distributed.unit_of_work.port import UnitOfWork, current_unit_of_work
from mediator.distributed.unit_of_work.read_only import (
    ReadOnlyTransaction,
    lack_of_storing,
    lack_of_unit_of_work,
    refuse_in_read_only,
)
from mediator.distributed.unit_of_work.running import UnitOfWorkState
from mediator.distributed.unit_of_work.staging import StagedEvent, check_ids, count_waiting

__all__ = [
    "DistributedEventBroker",
    "ReadOnlyTransaction",
    "StagedEvent",
    "UnitOfWork",
    "UnitOfWorkState",
    "check_event",
    "check_ids",
    "count_waiting",
    "current_unit_of_work",
    "lack_of_storing",
    "lack_of_unit_of_work",
    "refuse_in_read_only",
]
