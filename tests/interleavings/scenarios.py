"""Scenarios: which faults a run may meet. `run` makes a plan from the seed of the event loop, runs it and checks the end."""

import asyncio
import random
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, replace
from typing import Any
from unittest import mock
from weakref import WeakKeyDictionary

import simloop
import structlog

from mediator.distributed import failpoints
from mediator.distributed.inbox import ParkedReplay, consumer
from mediator.distributed.inbox.shared_lock import SharedLock
from mediator.distributed.outbox import OutboxFilter
from mediator.distributed.parking import ParkedEvent, ParkedFilter, ParkReason
from mediator.distributed.requests import RemoteSender
from mediator.errors import DatabaseUnavailableError, MediatorError
from mediator.testing import InMemoryBroker
from mediator.testing.failpoints import failpoint
from tests.interleavings.applications import (
    ATTEMPTS,
    Application,
    Orders,
    PlaceOrder,
    Plan,
    PlannedError,
    Reserve,
    Shipping,
)
from tests.interleavings.checks import History, check
from tests.interleavings.processes import KilledError, Process, Processes

_REPAIR_SECONDS = 7200.0
_DOWN_SECONDS = (0.0, 0.1, 2.0)
_KEYS = ("red", "green", "blue", None)


@dataclass(frozen=True)
class Scenario:
    """How many of each fault a run may meet, at most.

    Attributes:
        by_key: Whether consumers keep the order of each key.
        seconds: How long faults happen; then comes the repair, after which all events have to take effect.
        drain: The `drain_timeout` of the consumers, in seconds.
        later: The `later_delays` of the consumers, in seconds.
        circuit: The `circuit_failures` of the consumers.
        orders: The number of commands.
        kills: Processes that are killed at a random time, and started again.
        stops: Processes that are stopped at a random time, and started again.
        freezes: Processes that are frozen for up to 15 s, which is longer than a delivery waits for its answer.
        outages: Outages of the broker or of a database, of up to 5 s.
        commits: Commits whose answer an outage of the database swallows.
        faults: Faults at failpoints: an error, an error of the database, a kill, a stop or a delay.
        failing: Orders whose first shipments fail.
        poisonous: Orders whose shipments fail until the repair.
        deadly: Orders whose shipments kill the process until the repair.
        refused: Orders whose events the broker refuses until the repair.
        slow: Orders whose shipments take up to 12 s.
        asking: Orders whose shipments ask to be called again later.
        away: Times of up to 60 s in which the service that each shipping needs is away.
        replays: Replays of random parked events before the repair.
        requests: Requests to the other application.
    """

    name: str
    by_key: bool = True
    seconds: float = 15.0
    drain: float = 25.0
    later: tuple[float, ...] = ()
    circuit: int | None = 5
    orders: int = 12
    kills: int = 0
    stops: int = 0
    freezes: int = 0
    outages: int = 0
    commits: int = 0
    faults: int = 0
    failing: int = 0
    poisonous: int = 0
    deadly: int = 0
    refused: int = 0
    slow: int = 0
    asking: int = 0
    away: int = 0
    replays: int = 0
    requests: int = 0


_LATER = Scenario(
    "later", seconds=150.0, drain=2.0, later=(0.5, 3.0, 10.0),
    kills=1, stops=2, freezes=1, outages=2, faults=3, failing=6, slow=2, asking=3, deadly=1, poisonous=1, replays=3,
)  # fmt: skip
_CIRCUITS = Scenario(
    "circuits", seconds=150.0, drain=2.0, later=(0.5, 3.0, 10.0), circuit=2, orders=20,
    kills=2, stops=2, freezes=1, outages=2, faults=4, failing=2, slow=1, asking=1, deadly=1, away=3, replays=2,
)  # fmt: skip
SCENARIOS = {
    scenario.name: scenario
    for scenario in (
        Scenario("relays", orders=16, kills=2, stops=1, freezes=1, outages=2, commits=2, faults=2, refused=2),
        Scenario("keys", kills=2, stops=1, freezes=1, outages=1, faults=2, failing=3, slow=2),
        Scenario("unordered", by_key=False, kills=2, stops=1, freezes=1, outages=1, faults=2, failing=3, slow=2),
        Scenario("parking", kills=1, outages=1, faults=1, failing=2, poisonous=3, replays=8),
        Scenario("deaths", seconds=90.0, orders=10, faults=1, failing=1, deadly=2, slow=3, replays=4),
        Scenario("stops", seconds=60.0, drain=1.0, orders=10, kills=1, stops=10, outages=2, slow=4),
        _LATER,
        replace(_LATER, name="later-unordered", by_key=False),
        _CIRCUITS,
        replace(_CIRCUITS, name="circuits-unordered", by_key=False),
        Scenario("requests", orders=4, kills=2, stops=1, freezes=1, outages=2, faults=2, requests=10),
    )
}


async def run(name: str, *, traces: list[str] | None = None) -> None:
    """Run a scenario with the seed of the running event loop.

    Args:
        name: The name of the scenario.
        traces: Receives the lines of the trace.

    Raises:
        AssertionError: A promise was broken; the text names the promise.
    """
    loop = asyncio.get_running_loop()
    assert isinstance(loop, simloop.SimLoop)
    rng = random.Random(f"{name} {loop.seed}")
    processes = Processes(rng)
    if traces is not None:
        processes.trace = traces
    site = Site(SCENARIOS[name], processes)
    with processes_have_own_locks(processes), logs_are_noted(site):
        try:
            await site.run()
        finally:
            await processes.end()


class Site:
    """The processes of both applications, with what happens to them."""

    def __init__(self, scenario: Scenario, processes: Processes) -> None:
        self._scenario = scenario
        self._processes = processes
        self._rng = rng = processes.rng
        self._broker = InMemoryBroker()
        numbers = list(range(1, scenario.orders + 1))
        self._plan = plan = Plan(
            failures={number: float(rng.randint(1, 5)) for number in self._some(scenario.failing, numbers)},
            seconds={number: rng.choice((0.01, 1.0, 12.0)) for number in self._some(scenario.slow, numbers)},
            deadly={
                number: rng.choice((1, ATTEMPTS + 1)) if scenario.later else 1
                for number in self._some(scenario.deadly, numbers)
            },
            refused=set(self._some(scenario.refused, numbers)),
            asking={number: rng.randint(1, 3) for number in self._some(scenario.asking, numbers)},
        )
        plan.failures |= dict.fromkeys(self._some(scenario.poisonous, numbers), float("inf"))
        ordering = "key" if scenario.by_key else "none"
        self.orders = Orders(processes, self._broker, ordering, plan)
        self.shipping = Shipping(processes, self._broker, ordering, plan)
        self.history = History(deadly=frozenset(plan.deadly))
        self._keys = {number: rng.choice(_KEYS) for number in numbers}
        for application in (self.orders, self.shipping):
            application.drain_timeout = scenario.drain
            application.later_delays = scenario.later
            application.circuit_failures = scenario.circuit
            application.database.swallowed_answers = set(rng.sample(range(1, 30), rng.randint(0, scenario.commits)))
        self._fails = {number for number in numbers if rng.random() < 0.15}
        self._works: dict[str, Callable[[], Coroutine[Any, Any, None]]] = {
            "orders-web": self._web,
            "orders-relay-1": lambda: self.orders.relay().run(),
            "orders-relay-2": lambda: self.orders.relay().run(),
            "shipping-consumer-1": lambda: self.shipping.consumer(self.shipping.mediator_here()).run(),
            "shipping-consumer-2": lambda: self.shipping.consumer(self.shipping.mediator_here()).run(),
            "shipping-relay": lambda: self.shipping.relay().run(),
            "orders-consumer": lambda: self.orders.consumer(self.orders.mediator_here()).run(),
        }
        if scenario.requests:
            self._works["shipping-responder-1"] = lambda: self.shipping.responder().run()
            self._works["shipping-responder-2"] = lambda: self.shipping.responder().run()
        if scenario.replays:
            self._works["shipping-operator"] = self._operator
        self._unplaced = numbers
        self._unasked = list(range(1, scenario.requests + 1))
        self._armed: dict[str, list[tuple[int, str]]] = {}
        self._reached: dict[str, int] = {}
        self._repaired = False
        self._supervised = True

    def _some(self, most: int, numbers: list[int]) -> list[int]:
        return self._rng.sample(numbers, self._rng.randint(min(1, most), most))

    async def run(self) -> None:
        rng, scenario, loop = self._rng, self._scenario, asyncio.get_running_loop()
        for name in self._works:
            self._start(name)
        kinds = ("error", "database", "kill", "stop", "delay")
        for _ in range(rng.randint(0, scenario.faults)):
            place = rng.choice(failpoints.NAMES)
            self._armed.setdefault(place, []).append((rng.randint(1, 12), rng.choice(kinds)))
        happenings: list[Callable[[], None]] = []
        happenings += [self._kill] * rng.randint(min(1, scenario.kills), scenario.kills)
        happenings += [self._stop] * rng.randint(0, scenario.stops)
        happenings += [self._freeze] * rng.randint(0, scenario.freezes)
        happenings += [self._outage] * rng.randint(0, scenario.outages)
        happenings += [self._service_away] * rng.randint(min(1, scenario.away), scenario.away)
        for happening in happenings:
            loop.call_later(rng.uniform(0.0, scenario.seconds * 2 / 3), happening)
        with self._failpoints():
            await asyncio.sleep(scenario.seconds)
        self._processes.note("the repair begins")
        self._repaired = True
        self._plan.repair()
        for application in (self.orders, self.shipping):
            self._available(application.database, True)
            application.publisher.refused.clear()
            application.database.swallowed_answers.clear()
        self._available(self._broker, True)
        try:
            async with asyncio.timeout(_REPAIR_SECONDS):
                while not await self._is_done():
                    await asyncio.sleep(1.0)
        except TimeoutError:
            self.history.stuck = await self._rest()
        self._supervised = False
        for process in self._processes.running.values():
            process.stop()
        most = ATTEMPTS + len(scenario.later) + 1
        check(self.orders, self.shipping, self._broker, self.history, by_key=scenario.by_key, most_deaths=most)
        await self._wait_for_the_end()

    async def _wait_for_the_end(self) -> None:
        """Wait for the processes, whose end is bounded in time, and fail if one of them failed while alive."""
        mains = [process.main for process in self._processes.running.values()]
        done, pending = await asyncio.wait(mains, timeout=120.0)
        assert not pending, f"did not end within 120 s of their stop: {pending}"
        for task in done:
            if not task.cancelled() and (error := task.exception()) is not None and not isinstance(error, KilledError):
                raise error

    # What the processes do.

    def _start(self, name: str) -> None:
        """Start a process, as a supervisor does at the beginning and after each end of the process."""
        if self._supervised:
            process = self._processes.start(name, self._works[name])
            process.main.add_done_callback(lambda _: self._restart_later(name))

    def _restart_later(self, name: str) -> None:
        asyncio.get_running_loop().call_later(self._rng.choice(_DOWN_SECONDS), self._start, name)

    async def _web(self) -> None:
        """Send the commands and the requests that no earlier process has sent, up to three at a time."""
        mediator, sender = self.orders.mediator_here(), RemoteSender(self.shipping.channel, timeout=5.0)
        async with asyncio.TaskGroup() as tasks:
            for _ in range(3):
                tasks.create_task(self._send_commands(mediator))
            tasks.create_task(self._send_requests(sender))
            await asyncio.sleep(self._scenario.seconds + _REPAIR_SECONDS)

    async def _send_commands(self, mediator: Any) -> None:
        while self._unplaced:
            number = self._unplaced.pop(0)
            command = PlaceOrder(number, self._keys[number], fails=number in self._fails)
            self.history.commands[number] = "unknown"  # unless this process lives to hear the answer
            await self.history.note_command(number, mediator.send(command))
            await asyncio.sleep(self._rng.choice((0.0, 0.0, 0.05, 1.0)))

    async def _send_requests(self, sender: RemoteSender) -> None:
        while self._unasked:
            number = self._unasked.pop(0)
            self.history.requests[number] = "unknown"
            await self.history.note_request(number, sender.send(Reserve(number)))
            await asyncio.sleep(self._rng.choice((0.0, 0.05, 0.5)))

    async def _operator(self) -> None:
        """Replay parked events: any of them before the repair, and then all in their order."""
        left = self._rng.randint(0, self._scenario.replays)
        while True:
            await asyncio.sleep(self._rng.choice((0.1, 0.5, 2.0)))
            with suppress(MediatorError, PlannedError, RuntimeError):
                parked = await self.shipping.parking.find(ParkedFilter(direction="in"))
                if self._repaired and self._scenario.later:  # the others go on by themselves
                    parked = [each for each in parked if not each.waits and each.reason != ParkReason.KEY_PARKED]
                if parked and (left > 0 or self._repaired):
                    left -= 1
                    await self._replay(parked[0] if self._repaired else self._rng.choice(parked))

    async def _replay(self, event: ParkedEvent) -> None:
        """Replay an event and, if it succeeds, the events that were parked behind it."""
        self._processes.note(f"replay of {event.event_id}")
        consumer = self.shipping.consumer(self.shipping.mediator_here())
        async for result in ParkedReplay(self.shipping.parking, [consumer]).run(ParkedFilter(numbers=[event.number])):
            self._processes.note(f"{result.event.event_id} is {result.outcome}")

    # What happens to them.

    def _any_process(self) -> Process:
        return self._rng.choice(list(self._processes.running.values()))

    def _kill(self) -> None:
        self.history.kills += 1
        self._any_process().kill()

    def _stop(self) -> None:
        self._any_process().stop()

    def _freeze(self) -> None:
        self._any_process().freeze(self._rng.choice((0.5, 5.0, 15.0)))

    def _outage(self) -> None:
        server = self._rng.choice((self._broker, self.orders.database, self.shipping.database))
        self._available(server, False)
        asyncio.get_running_loop().call_later(self._rng.choice((0.1, 1.0, 5.0)), self._available, server, True)

    def _service_away(self) -> None:
        self._processes.note("the service is away")
        self._plan.is_away = True
        asyncio.get_running_loop().call_later(self._rng.choice((1.0, 10.0, 60.0)), self._service_back)

    def _service_back(self) -> None:
        self._processes.note("the service is back")
        self._plan.is_away = False

    def _available(self, server: Any, value: bool) -> None:
        self._processes.note(f"{type(server).__name__} is {'available' if value else 'away'}")
        server.available = value
        if server is self._broker:
            self.shipping.channel.available = value

    @contextmanager
    def _failpoints(self) -> Iterator[None]:
        """Let other tasks run at each failpoint, and do there what the plan says."""
        with ExitStack() as stack:
            for name in failpoints.NAMES:
                stack.enter_context(failpoint(name, self._action(name)))
            yield

    def _action(self, name: str) -> Callable[[], Awaitable[None]]:
        async def act() -> None:
            process = self._processes.current()
            if process is None or not process.alive:
                return
            count = self._reached[name] = self._reached.get(name, 0) + 1
            for at, kind in self._armed.get(name, ()):
                if at == count:
                    await self._fail(name, kind, process)
            await asyncio.sleep(0)

        return act

    async def _fail(self, place: str, kind: str, process: Process) -> None:
        self._processes.note(f"{kind} at {place} in {process.name}")
        if kind == "error":
            raise RuntimeError("injected")
        if kind == "database":
            raise DatabaseUnavailableError("the plan", "injected")
        if kind == "delay":
            await asyncio.sleep(12.0)
        elif kind == "stop":
            process.stop()
        else:
            self.history.kills += 1
            process.kill()
            raise KilledError(process.name)

    # When it is over.

    async def _is_done(self) -> bool:
        return not self._unplaced and not self._unasked and not any((await self._rest()).values())

    async def _rest(self) -> dict[str, int]:
        """Return how many events still wait, by place, and replay or release each parked event."""
        rest: dict[str, int] = {}
        for application, event_type in ((self.orders, "shipping"), (self.shipping, "orders")):
            waiting = await application.outbox.contents.count(OutboxFilter("waiting"))
            rest[f"outbox of {application.name}"] = waiting.events
            rest[f"stream of {application.name}"] = self._unsettled(application, event_type)
            rest[f"parked in {application.name}"] = len(application.parking.events)
            for event in application.parking.events:
                if event.direction == "out":
                    with suppress(MediatorError):
                        await application.parking.release(event.number)
                elif self._scenario.replays == 0 or application is self.orders:
                    with suppress(MediatorError, PlannedError):
                        await application.consumer(application.mediator_here()).replay(event)  # type: ignore[attr-defined]
        return rest

    def _unsettled(self, application: Application, domain: str) -> int:
        stored = sum(event.type.startswith(f"{domain}.") for event in self._broker.events)
        return stored - len(self._broker._acknowledged[application.name])


@contextmanager
def processes_have_own_locks(processes: Processes) -> Iterator[None]:
    """Give each process its own lock for events that may kill it. The library has one lock for each event loop."""
    locks: WeakKeyDictionary[Any, SharedLock] = WeakKeyDictionary()

    def lock_here() -> SharedLock:
        return locks.setdefault(processes.current() or processes, SharedLock())

    with mock.patch.object(consumer, "shared_lock_here", lock_here):
        yield


@contextmanager
def logs_are_noted(site: Site) -> Iterator[None]:
    """Add the log lines to the trace, and let the history of the run see them."""
    before = structlog.get_config()

    def note(_logger: Any, level: str, line: Any) -> Any:
        process = site._processes.current()
        place = "test" if process is None else process.name
        shown = " ".join(f"{key}={value}" for key, value in line.items() if key in _SHOWN and value is not None)
        site._processes.note(f"{place}: {level} {line['event']} {shown}")
        site.history.note_log(line)
        raise structlog.DropEvent

    structlog.configure(processors=[note], cache_logger_on_first_use=False)
    try:
        yield
    finally:
        structlog.configure(**before)


_SHOWN = ("event_id", "reason", "error", "attempt", "sequence", "key", "retry_in", "consumer", "message_type", "events")
