"""EventsProgram: the steps that hypothesis takes in any order: work, faults, outages, time and repairs."""

import asyncio
import contextlib
import itertools
import tempfile
from pathlib import Path
from typing import Any

from hypothesis import note
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from mediator.distributed.parking import ParkedFilter
from mediator.errors import ParkedEventBlockedError
from mediator.testing.failpoints import failpoint
from tests.contracts.model_events.application import Application, Clock, PoisonError
from tests.contracts.model_events.reference import Reference, Seen
from tests.contracts.model_events.script import KEYS, Do, commands, numbered
from tests.contracts.model_events.storage import InMemoryStorage, ModelStorage, sqlite
from tests.contracts.model_events.virtual_loop import VirtualLoop
from tests.contracts.model_events.workers import Fault, Workers, action_of, look

_KINDS = ("error", "database", "cancel", "crash")
_COMMITTING = ("before_stage", "before_commit", "during_commit", "after_commit")
_RELAYING = ("after_select", "after_publish", "before_delete", "after_delete")
_CONSUMING = (
    *("after_count", "before_insert", "after_insert", "after_handlers", "after_commit", "after_ack", "after_append"),
    *("before_park", "after_park", "after_term", "after_failure", "after_take_back"),
)


def faults(worker: str, places: tuple[str, ...], *kinds: str) -> st.SearchStrategy[Fault | None]:
    """Draw faults, usually none."""
    some = st.builds(Fault, st.sampled_from([f"{worker}.{place}" for place in places]), st.sampled_from(kinds))
    return st.one_of(st.none(), some)


commit_faults = faults("unit_of_work", _COMMITTING, "error", "database", "cancel")
relay_faults = faults("relay", _RELAYING, *_KINDS)
consumer_faults = st.one_of(
    faults("consumer", _CONSUMING, *_KINDS),
    faults("unit_of_work", ("before_stage", "before_commit"), *_KINDS),
    faults("unit_of_work", ("during_commit", "after_commit"), "error", "database", "cancel"),
)
keys = st.sampled_from(KEYS)
counts = st.sampled_from((1, 1, 2))


class EventsProgram(RuleBasedStateMachine):
    """The program in memory and in virtual time."""

    patience = 2.0

    def __init__(self) -> None:
        super().__init__()
        self.runner = asyncio.Runner(loop_factory=self.loop)
        self.stack = contextlib.AsyncExitStack()
        self.clock = Clock()
        self.numbers = itertools.count(1)

    def loop(self) -> asyncio.AbstractEventLoop:
        return VirtualLoop()

    async def open(self) -> ModelStorage:
        return InMemoryStorage(self.clock)

    @initialize(ordered=st.booleans())
    def begin(self, ordered: bool) -> None:
        storage = self.runner.run(self.open())
        self.application = Application(storage, self.clock, "key" if ordered else "none")
        self.workers = Workers(self.application, self.patience)
        self.reference = Reference(ordered)

    # Work.

    @rule(command=commands, fault=commit_faults)
    def send(self, command: Do, fault: Fault | None) -> None:
        command = numbered(command, self.numbers)
        self.runner.run(self._send(command, fault))

    async def _send(self, command: Do, fault: Fault | None) -> None:
        with contextlib.ExitStack() as armed:
            sending = asyncio.ensure_future(self.application.do(command))
            if fault is not None:
                armed.enter_context(failpoint(fault.place, action_of(fault, [sending])))
            await asyncio.wait([sending])
        error = sending.exception() if not sending.cancelled() else "cancelled"
        note(f"ended with {error!r}")
        self.reference.note(command, await self.application.storage.read("made"), disturbed=fault is not None)

    @rule(count=counts, fault=relay_faults)
    def relay(self, count: int, fault: Fault | None) -> None:
        self.runner.run(self.workers.relay(count, fault))

    @rule(count=counts, fault=consumer_faults)
    def consume(self, count: int, fault: Fault | None) -> None:
        self.runner.run(self.workers.consume(count, fault))

    @rule(count=counts)
    def run_all_workers(self, count: int) -> None:
        self.runner.run(self._run_all_workers(count))

    async def _run_all_workers(self, count: int) -> None:
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self.workers.relay(count))
            tasks.create_task(self.workers.consume(count))

    # Faults, and their ends.

    @rule()
    def switch_the_broker(self) -> None:
        self.application.broker.available = not self.application.broker.available

    @rule(count=counts, relaying=st.booleans())
    def work_during_a_database_outage(self, count: int, relaying: bool) -> None:
        self.application.storage.away(True)
        try:
            self.runner.run(self.workers.relay(count) if relaying else self.workers.consume(count))
        finally:
            self.application.storage.away(False)

    @rule(key=keys)
    def switch_the_handlers_of_a_key(self, key: str | None) -> None:
        self.application.poisoned ^= {key}

    @rule(key=keys)
    def switch_the_refusal_of_a_key(self, key: str | None) -> None:
        self.application.publisher.refused ^= {key}

    # Time, and the actions of operators.

    @rule(seconds=st.sampled_from((3.0, 60.0)))
    def let_time_pass(self, seconds: float) -> None:
        self.clock.now += seconds

    @precondition(lambda self: any(event.delay is not None for event in self.reference.events.values()))
    @rule(data=st.data())
    def cancel_a_delayed_event(self, data: Any) -> None:
        delayed = [number for number, event in self.reference.events.items() if event.delay is not None]
        number = data.draw(st.sampled_from(delayed))
        if self.runner.run(self._cancel(number)):
            self.reference.withdrawn.add(number)

    async def _cancel(self, number: int) -> bool:
        ids = [each for each, label in self.application.labels.items() if label[1] == number]
        return await self.application.storage.outbox.cancel(ids[0])

    @rule(data=st.data(), fails=st.booleans())
    def replay_a_parked_event(self, data: Any, fails: bool) -> None:
        self.runner.run(self._replay(data, Fault("replay.after_take", "error") if fails else None))

    async def _replay(self, data: Any, fault: Fault | None) -> None:
        parking = self.application.storage.parking
        parked = await parking.find(ParkedFilter(direction="in"))
        if not parked:
            return
        event = data.draw(st.sampled_from(parked))
        first = (await parking.head(event)) in (event, None)
        with contextlib.ExitStack() as armed:
            if fault is not None:
                armed.enter_context(failpoint(fault.place, action_of(fault, [])))
            try:
                await self.application.consumer(grace=10).replay(event)
            except ParkedEventBlockedError:
                assert not first
            except PoisonError:
                assert event.partition_key in self.application.poisoned
            except RuntimeError:
                assert fault is not None
            else:
                assert first
                assert fault is None

    @rule(data=st.data())
    def discard_a_parked_event(self, data: Any) -> None:
        self.runner.run(self._discard(data))

    async def _discard(self, data: Any) -> None:
        parked = await self.application.storage.parking.find(ParkedFilter())
        if parked:
            event = await self.application.storage.parking.discard(data.draw(st.sampled_from(parked)).number)
            number = self.application.labels[event.event_id][1]
            (self.reference.withdrawn if event.direction == "out" else self.reference.discarded).add(number)

    # Invariants.

    @invariant()
    def invariants_hold(self) -> None:
        if hasattr(self, "application"):
            self.reference.check(self.runner.run(look(self.application)))

    def teardown(self) -> None:
        try:
            if hasattr(self, "application"):
                seen = self.runner.run(self._end())
                self.reference.check_end(seen)
        finally:
            self.runner.run(self.stack.aclose())
            self.runner.close()

    async def _end(self) -> Seen:
        """End all faults, and let all workers run until no work is left."""
        application, parking = self.application, self.application.storage.parking
        application.broker.available = True
        application.poisoned.clear()
        application.publisher.refused.clear()
        self.clock.now += 1000
        for event in await parking.find(ParkedFilter(direction="out"), limit=1000):
            await parking.release(event.number)
        workers = Workers(application, 30.0)
        await workers.relay(1)
        await workers.consume(1)
        for event in await parking.find(ParkedFilter(direction="in"), limit=1000):
            await application.consumer(grace=10).replay(event)
        await workers.relay(1)
        return await look(application)


class SqliteProgram(EventsProgram):
    """The program on an SQLite file and in real time. An idle worker is stopped soon."""

    patience = 0.1

    def loop(self) -> asyncio.AbstractEventLoop:
        return asyncio.new_event_loop()

    async def open(self) -> ModelStorage:
        folder = self.stack.enter_context(tempfile.TemporaryDirectory())
        return await self.stack.enter_async_context(sqlite(Path(folder) / "model.db", self.clock))
