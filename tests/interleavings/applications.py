"""Two applications: orders places orders and hears of shipments, shipping ships what was ordered and answers requests."""

import asyncio
import itertools
import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, ClassVar

from mediator import (
    Command,
    DistributedEvent,
    DistributedEventBroker,
    DistributedEventHandler,
    DistributedUnitOfWorkBehavior,
    EventConsumer,
    Mediator,
    OutboxRelay,
    PipelineBehavior,
    RequestHandler,
    current_scope,
)
from mediator.binding import Binding
from mediator.distributed.inbox import Ordering, current_delivery
from mediator.distributed.requests import RequestResponder, trust_broker
from mediator.errors import RetryLater
from mediator.registry import Registry
from mediator.testing import InMemoryBroker
from tests.interleavings.processes import Process, Processes
from tests.interleavings.servers import (
    EPOCH,
    Channel,
    Database,
    Inbox,
    Outbox,
    Parking,
    Publisher,
    Subscription,
    UnitOfWork,
)

RETRIES = (0.0, 0.5)
ATTEMPTS = len(RETRIES) + 1


@dataclass(frozen=True, slots=True)
class Placed(DistributedEvent):
    event_type: ClassVar[str] = "orders.placed"
    number: int
    key: str | None

    @property
    def partition_key(self) -> str | None:
        return self.key


@dataclass(frozen=True, slots=True)
class Shipped(DistributedEvent):
    event_type: ClassVar[str] = "shipping.shipped"
    number: int
    key: str | None

    @property
    def partition_key(self) -> str | None:
        return self.key


@dataclass(frozen=True)
class PlaceOrder(Command[int]):
    """Writes an order and adds `Placed`; fails afterwards if `fails` is set."""

    number: int
    key: str | None
    fails: bool = False


@dataclass(frozen=True)
class Reserve(Command[int]):
    """A request to shipping, which writes a reservation."""

    request_type: ClassVar[str] = "shipping.reserve"
    number: int


class PlannedError(Exception):
    """The error of a handler that the plan lets fail."""


@dataclass
class Plan:
    """How the handlers behave, by the numbers of orders.

    Attributes:
        failures: How many starts of the shipping of an order fail; `inf` for all until the repair.
        seconds: The time that the shipping of an order takes.
        asking: How often the shipping of an order asks to be called again later.
        deadly: The orders whose shipping kills its process until the repair, each with the first attempt that does so.
            The attempts before fail.
        refused: The orders whose `Placed` the broker refuses until the repair.
        deaths: How many consumers each deadly order has killed.
        is_away: Whether the service that each shipping needs is away.
    """

    failures: dict[int, float] = field(default_factory=dict)
    seconds: dict[int, float] = field(default_factory=dict)
    asking: dict[int, int] = field(default_factory=dict)
    deadly: dict[int, int] = field(default_factory=dict)
    refused: set[int] = field(default_factory=set)
    deaths: dict[int, int] = field(default_factory=dict)
    is_away: bool = False

    def repair(self) -> None:
        self.is_away = False
        self.failures.clear()
        self.deadly.clear()
        self.refused.clear()


class Application:
    """One application: its database, and the work of its processes."""

    def __init__(self, name: str, processes: Processes, broker: InMemoryBroker, ordering: Ordering) -> None:
        self.name = name
        self.processes = processes
        self.broker = broker
        self.ordering: Ordering = ordering
        self.database = Database(processes)
        self.outbox = Outbox(self.database, name)
        self.inbox = Inbox(self.database)
        self.parking = Parking(self.database)
        self.publisher = Publisher(processes, broker, name)
        self.subscription = Subscription(processes, broker, name, ack_wait=10.0)
        self.drain_timeout = 25.0
        self.later_delays: tuple[float, ...] = ()
        self.circuit_failures: int | None = None
        self.numbers: dict[str, int] = {}
        """The number of the order of each event that was added, by the event's id."""
        self._written = itertools.count()
        self._ids = itertools.count(1)

    def unit_of_work(self) -> UnitOfWork:
        instances = current_scope().instances
        if UnitOfWork not in instances:
            instances[UnitOfWork] = UnitOfWork(self.database, ids=lambda: f"transaction-{next(self._ids)}")
        found: UnitOfWork = instances[UnitOfWork]
        return found

    def mediator(self, *handlers: tuple[type[Any], Callable[[Any], Awaitable[Any]]]) -> Mediator:
        """Return a mediator of a new process. Each handler is given as the class of its message and a function."""
        bindings = [_binding(message, work) for message, work in handlers]
        behavior = Binding(self._transaction, DistributedUnitOfWorkBehavior, "transaction", PipelineBehavior)
        return Mediator(Registry(bindings, [behavior]))

    def _transaction(self) -> DistributedUnitOfWorkBehavior[Any]:
        unit_of_work = self.unit_of_work()
        return DistributedUnitOfWorkBehavior(unit_of_work, DistributedEventBroker(unit_of_work), self.outbox)

    def write(self, table: str, number: int) -> None:
        self.unit_of_work().table(table)[next(self._written)] = number

    def rows(self, table: str) -> list[int]:
        """Return the committed rows, in the order of their commits."""
        return list(self.database.tables.get(table, {}).values())

    def add(self, event: Placed | Shipped) -> str:
        def clock() -> datetime:
            return datetime.fromtimestamp(EPOCH + asyncio.get_running_loop().time(), UTC)

        ids = lambda: f"{self.name}-{next(self._ids)}"  # noqa: E731
        event_id = DistributedEventBroker(self.unit_of_work(), ids=ids, clock=clock).add(event)
        self.numbers[event_id] = event.number
        return event_id

    def relay(self) -> OutboxRelay:
        return OutboxRelay(
            self.outbox, self.publisher,
            batch_size=3, poll_interval=0.5, rng=self._rng(), clock=asyncio.get_running_loop().time,
        )  # fmt: skip

    def consumer(self, mediator: Mediator) -> EventConsumer:
        return EventConsumer(
            self.subscription, self.inbox, self.unit_of_work, mediator,
            parking=self.parking, ordering=self.ordering, concurrency=3, prefetch=8,
            retry_delays=RETRIES, later_delays=self.later_delays, circuit_failures=self.circuit_failures,
            drain_timeout=self.drain_timeout, rng=self._rng(), now=self.database.now,
        )  # fmt: skip

    def _rng(self) -> random.Random:
        return random.Random(self.processes.rng.random())


def _binding(message: type[Any], work: Callable[[Any], Awaitable[Any]]) -> Binding:
    is_event = issubclass(message, DistributedEvent)
    base: Any = DistributedEventHandler[message] if is_event else RequestHandler[message, int]  # type: ignore[valid-type]

    class Handler(base):  # type: ignore[misc]
        async def handle(self, given: Any) -> Any:
            return await work(given)

    return Binding(
        Handler, Handler, f"{message.__name__}_handler", DistributedEventHandler if is_event else RequestHandler
    )


class Orders(Application):
    async def place(self, command: PlaceOrder) -> int:
        self.write("orders", command.number)
        event_id = self.add(Placed(command.number, command.key))
        if command.number in self.plan.refused:
            self.publisher.refused.add(event_id)
        await asyncio.sleep(0)
        if command.fails:
            raise PlannedError
        return command.number

    def __init__(
        self, processes: Processes, broker: InMemoryBroker, ordering: Ordering, plan: Plan, name: str = "orders"
    ) -> None:
        super().__init__(name, processes, broker, ordering)
        self.plan = plan

    async def hear(self, event: Shipped) -> None:
        self.write("shipped", event.number)
        await asyncio.sleep(0)

    def mediator_here(self) -> Mediator:
        return self.mediator((PlaceOrder, self.place), (Shipped, self.hear))


class Shipping(Application):
    def __init__(
        self, processes: Processes, broker: InMemoryBroker, ordering: Ordering, plan: Plan, name: str = "shipping"
    ) -> None:
        super().__init__(name, processes, broker, ordering)
        self.plan = plan
        self.channel = Channel(processes)

    async def ship(self, event: Placed) -> None:
        plan, number = self.plan, event.number
        self.write("shipments", number)
        self.add(Shipped(number, event.key))
        await asyncio.sleep(plan.seconds.get(number, 0.0))
        if plan.is_away:
            raise PlannedError
        process = self.processes.current()
        if number in plan.deadly and current_delivery().attempt < plan.deadly[number]:
            raise PlannedError
        if number in plan.deadly and isinstance(process, Process):
            if "consumer" in process.name:  # an operator may replay a deadly event as often as they like
                plan.deaths[number] = plan.deaths.get(number, 0) + 1
            process.kill()
            await asyncio.sleep(3600)
        if (times := plan.asking.get(number, 0)) > 0:
            plan.asking[number] = times - 1
            raise RetryLater(after=timedelta(seconds=4))
        if (left := plan.failures.get(number, 0)) > 0:
            plan.failures[number] = left - 1
            raise PlannedError

    async def reserve(self, command: Reserve) -> int:
        self.write("reservations", command.number)
        await asyncio.sleep(0)
        return command.number

    def mediator_here(self) -> Mediator:
        return self.mediator((Placed, self.ship), (Reserve, self.reserve))

    def responder(self) -> RequestResponder:
        return RequestResponder(self.channel, self.mediator_here(), exposes=[Reserve], authenticate=trust_broker)
