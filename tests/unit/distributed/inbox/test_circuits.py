"""While the calls of a handler class fail one after the other, its events are set aside, until a probe succeeds."""

import asyncio
from collections import Counter, defaultdict
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import Any, ClassVar

import pytest
from structlog.testing import capture_logs

from mediator import DistributedEvent, DistributedEventHandler, current_delivery
from mediator.binding import Binding
from mediator.distributed.cloudevents import CloudEvent
from mediator.distributed.inbox import ParkedReplay
from mediator.distributed.parking import ParkedEvent, ParkedFilter
from mediator.errors import DatabaseUnavailableError, FatalEventError, RetryLater, SettingError
from mediator.registry import Registry
from tests.unit.distributed.inbox.application import Application, OrderPlaced, Steady, VirtualDatabase, failing
from tests.unit.virtual_time import in_virtual_time, now

PLACED_AT = datetime(2026, 1, 2, tzinfo=UTC)
HOURS = 3600.0


@dataclass(frozen=True, slots=True)
class Rated(DistributedEvent):
    event_type: ClassVar[str] = "shop.rated"
    number: int


class Shop(Application):
    """An application whose `Charge` and `Ship` handle orders, and whose `Rate` handles ratings.

    `Charge` calls a payment service. An event has no quick tries, and later tries after 30 s, 2 min and 10 min.

    Attributes:
        is_up: Whether the payment service answers.
        calls: The time and the number of each order for which the payment service was called.
        charged: The times at which `Charge` succeeded, for each order, although its transaction may have rolled back.
        shipping: What `Ship` does.
        rated: The time at which each rating took effect.
    """

    def __init__(self, options: dict[str, Any] | None = None, **others: Any) -> None:
        self.is_up = True
        self.calls: list[tuple[float, int]] = []
        self.shipping: Callable[[int], Awaitable[None]] = _nothing
        self.rated: dict[int, float] = {}
        self.order: defaultdict[str, list[int]] = defaultdict(list)
        usual = {"retry_delays": (), "later_delays": (30.0, 120.0, 600.0), "rng": Steady(), "drain_timeout": 0.0}
        super().__init__({**usual, **(options or {})}, database=VirtualDatabase(), **others)
        classes = (Charge, Ship, Rate)
        self.mediator.rebind(
            Registry([Binding(lambda cls=cls: cls(self), cls, "shop", DistributedEventHandler) for cls in classes])
        )

    def place(self, *numbers: int, key: str | None = None, kind: str = "order-placed") -> None:
        for number in numbers:
            self.broker.store(
                CloudEvent(
                    id=f"e{number}",
                    type=f"shop.{kind}.v1",
                    time=PLACED_AT,
                    data=b'{"number": %d}' % number,
                    source="shop",
                    partitionkey=key,
                )
            )

    @property
    def held(self) -> list[ParkedEvent]:
        return [event for event in self.parking.events if event.held_by is not None]

    def starts_of(self, *numbers: int) -> list[float]:
        return [at for at, number in self.calls if number in numbers]

    async def break_down(self, first: int = 1000) -> None:
        """Let the payment service fail for five orders, so that the circuit opens. The circuit holds none of them."""
        self.is_up = False
        self.place(*range(first, first + 5))
        await until(lambda: self.held)
        (last,) = self.held
        await self.parking.discard(last.number)


class Charge(DistributedEventHandler[OrderPlaced]):
    def __init__(self, shop: Shop) -> None:
        self._shop = shop

    async def handle(self, event: OrderPlaced) -> None:
        shop = self._shop
        shop.calls.append((now(), event.number))
        if not shop.is_up:
            raise ConnectionError("payment service")
        if event.number in shop.acts:
            await shop.acts[event.number](event)
        shop.unit_of_work().table("reservations")[event.number] = current_delivery().id
        shop.order[str(current_delivery().event.partitionkey)].append(event.number)


class Ship(DistributedEventHandler[OrderPlaced]):
    def __init__(self, shop: Shop) -> None:
        self._shop = shop

    async def handle(self, event: OrderPlaced) -> None:
        await self._shop.shipping(event.number)


class Rate(DistributedEventHandler[Rated]):
    def __init__(self, shop: Shop) -> None:
        self._shop = shop

    async def handle(self, event: Rated) -> None:
        self._shop.rated[event.number] = now()


async def _nothing(_number: int) -> None:
    pass


async def until(condition: Callable[[], object]) -> None:
    while not condition():
        await asyncio.sleep(0.01)


def lines(logs: list[Any], event: str) -> list[Any]:
    return [line for line in logs if line["event"] == event]


CHARGE = f"{__name__}.Charge"


# When a circuit opens.


@in_virtual_time
async def test_after_five_failing_events_in_a_row_further_events_are_set_aside_without_a_start_or_an_attempt() -> None:
    shop = Shop()
    async with shop.running():
        await shop.break_down()
        shop.place(1, 2)
        await shop.settled(7)
        assert shop.starts_of(1, 2) == []
        found = [(each.event_id, each.reason, each.attempts, each.tries, each.due_at) for each in shop.held]
        assert found == [("e1", "circuit-open", 0, 0, None), ("e2", "circuit-open", 0, 0, None)]
        assert {(each.held_by, each.error) for each in shop.held} == {(CHARGE, "ConnectionError: payment service")}


@in_virtual_time
async def test_the_failures_of_one_event_open_no_circuit() -> None:
    shop = Shop({"retry_delays": (0.0, 0.0, 0.0), "later_delays": (1.0,) * 20})
    shop.acts[1] = failing(ValueError("poison"))
    async with shop.running():
        shop.place(1)
        await until(lambda: len(shop.starts_of(1)) == 20)
        shop.place(2)
        await shop.settled(2)
        assert shop.effects == [2]


@in_virtual_time
async def test_a_success_between_failures_lets_the_count_begin_again() -> None:
    shop = Shop()
    shop.acts = {number: failing(ValueError()) for number in range(1, 9) if number != 5}
    async with shop.running():
        shop.place(*range(1, 9))
        await shop.settled(8)
        assert [len(shop.starts_of(number)) for number in range(1, 9)] == [1] * 8
        assert shop.held == []


@pytest.mark.parametrize("error", [FatalEventError("never"), RetryLater(after=timedelta(hours=1))])
@in_virtual_time
async def test_errors_that_say_nothing_about_the_handler_open_no_circuit(error: Exception) -> None:
    shop = Shop()
    shop.acts = dict.fromkeys(range(1, 20), failing(error))
    async with shop.running():
        shop.place(*range(1, 21))
        await shop.settled(20)
    assert len(shop.calls) == 20
    assert shop.effects == [20]


@in_virtual_time
async def test_an_outage_of_the_database_opens_no_circuit() -> None:
    shop = Shop({"concurrency": 8})
    shop.acts = {number: failing(DatabaseUnavailableError("sqlite", "gone"), times=2) for number in range(1, 9)}
    async with shop.running():
        shop.place(*range(1, 9))
        await shop.settled(8)
    assert sorted(shop.effects) == list(range(1, 9))


@in_virtual_time
async def test_the_number_of_failing_events_that_opens_a_circuit_is_a_setting() -> None:
    shop = Shop({"circuit_failures": 2})
    shop.is_up = False
    async with shop.running():
        shop.place(1, 2, 3)
        await shop.settled(3)
        assert [(event.event_id, event.attempts) for event in shop.held] == [("e2", 0), ("e3", 0)]


@in_virtual_time
async def test_without_circuits_every_event_is_tried_and_held_events_are_let_go() -> None:
    shop = Shop()
    async with shop.running():
        await shop.break_down()
        shop.place(1)
        await shop.settled(6)
    assert len(shop.held) == 1
    async with shop.running(shop.consuming(circuit_failures=None)):
        await until(lambda: shop.starts_of(1))
        shop.place(*range(2, 20))
        await until(lambda: len(shop.broker.events) == len({number for _, number in shop.calls}))
        assert shop.held == []


@pytest.mark.parametrize("failures", [0, -1, 1.5, True])
def test_the_number_of_failing_events_must_be_a_whole_number_of_at_least_one(failures: Any) -> None:
    with pytest.raises(SettingError, match="circuit_failures"):
        Shop({"circuit_failures": failures})


@in_virtual_time
async def test_without_parking_no_circuit_opens() -> None:
    shop = Shop({"retry_delays": (1.0,), "later_delays": ()})
    shop.is_up = False
    async with shop.running(shop.consuming(parking=None)):
        shop.place(*range(1, 10))
        await until(lambda: len({number for _, number in shop.calls}) == 9)
        shop.is_up = True
        await shop.settled(9)
    assert sorted(shop.effects) == list(range(1, 10))


# Which handler is concerned.


@in_virtual_time
async def test_events_of_other_handlers_take_effect_at_once_while_a_circuit_is_open() -> None:
    shop = Shop()
    async with shop.running():
        shop.place(900, kind="rated")
        await shop.break_down()
        for number in range(1, 40):
            shop.place(number)
            shop.place(number + 100, kind="rated")
            placed = now()
            await until(lambda number=number: number + 100 in shop.rated)
            assert now() - placed < 1
        assert shop.starts_of(*range(1, 40)) == [at for at in shop.starts_of(*range(1, 40)) if at >= 1]
        assert len(shop.held) >= 37


@in_virtual_time
async def test_of_several_handlers_of_an_event_the_circuit_of_the_failing_one_opens() -> None:
    shop = Shop()

    async def fail(_number: int) -> None:
        raise TimeoutError

    shop.shipping = fail
    async with shop.running():
        shop.place(*range(1, 7))
        await shop.settled(6)
        assert {event.held_by for event in shop.held} == {f"{__name__}.Ship"}
        shop.shipping = _nothing
        await until(lambda: len(shop.effects) == 6)


@in_virtual_time
async def test_a_probe_of_one_handler_that_fails_in_a_later_handler_closes_the_first_circuit() -> None:
    shop = Shop({"later_delays": (10_000.0,)})

    async def fail(_number: int) -> None:
        raise TimeoutError

    async with shop.running():
        await shop.break_down()
        shop.shipping = fail
        shop.is_up = True
        with capture_logs() as logs:
            shop.place(*range(1, 8))
            await until(lambda: lines(logs, "circuit opened"))
        assert [line["handler"] for line in lines(logs, "circuit closed")] == [CHARGE]
        assert [line["handler"] for line in lines(logs, "circuit opened")] == [f"{__name__}.Ship"]


# Probes.


@in_virtual_time
async def test_when_a_probe_succeeds_all_held_events_take_effect() -> None:
    shop = Shop()
    async with shop.running():
        await shop.break_down()
        shop.place(*range(1, 30))
        await asyncio.sleep(20)
        shop.is_up = True
        came_up = now()
        await until(lambda: len(shop.effects) == 33)
        assert now() - came_up < 35
    assert (shop.parking.events, Counter(shop.effects).most_common(1)[0][1]) == ((), 1)


@in_virtual_time
async def test_one_event_at_a_time_is_a_probe_after_a_pause_that_grows_to_half_a_minute() -> None:
    shop = Shop({"later_delays": (10_000.0,), "concurrency": 16})
    async with shop.running():
        await shop.break_down()
        opened = now()
        shop.place(*range(1, 200))
        await asyncio.sleep(200)
        probes = [at - opened for at, number in shop.calls if number < 1000]
        pauses = [later - at for at, later in pairwise([0.0, *probes])]
        assert pauses == pytest.approx([0.75, 1.5, 3, 6, 12, *[22.5] * (len(probes) - 5)], abs=0.1)


@in_virtual_time
async def test_a_failed_probe_costs_no_attempt_and_another_event_is_the_next_probe() -> None:
    shop = Shop({"later_delays": (10_000.0,)})
    async with shop.running():
        await shop.break_down()
        shop.place(1, 2, 3)
        await until(lambda: len(shop.starts_of(1, 2, 3)) == 6)
        assert [number for _, number in shop.calls[5:]] == [1, 2, 3, 1, 2, 3]
        await until(lambda: len(shop.held) == 3)
        assert [(event.attempts, event.tries, event.reason) for event in shop.held] == [(0, 0, "circuit-open")] * 3


@in_virtual_time
async def test_a_poison_event_among_the_held_ones_does_not_keep_the_circuit_open() -> None:
    shop = Shop()
    shop.acts[1] = failing(ValueError("poison"))
    async with shop.running():
        await shop.break_down()
        shop.place(1, 2, 3)
        await shop.settled(8)
        shop.is_up = True
        await until(lambda: {2, 3} <= set(shop.effects))
        assert now() < 60


@in_virtual_time
async def test_a_poison_event_that_opens_the_circuit_alone_is_parked_for_a_person_after_its_later_tries() -> None:
    shop = Shop({"circuit_failures": 1})
    shop.acts[1] = failing(ValueError("poison"))
    async with shop.running():
        for number in range(1, 200):
            shop.place(number)
            await asyncio.sleep(10)
        assert shop.parked() == [("e1", "handler-failed", 4)]


@pytest.mark.parametrize("hangs", [False, True])
@in_virtual_time
async def test_two_open_circuits_do_not_hand_each_other_the_held_events_again_and_again(hangs: bool) -> None:
    shop = Shop({"later_delays": (10_000.0,), "concurrency": 8, "handler_timeout": 50.0})
    mail = Mail()
    bindings = [(lambda: Charge(shop), Charge), (lambda: mail, Mail)]
    shop.mediator.rebind(Registry([Binding(make, cls, "shop", DistributedEventHandler) for make, cls in bindings]))
    shop.is_up = False
    async with shop.running(shop.consuming()):
        shop.place(*range(1, 800))
        shop.place(*range(1001, 1012), kind="rated")
        await until(lambda: len({event.held_by for event in shop.held}) == 2)
        mail.hangs = hangs
        await asyncio.sleep(200)
        assert len(shop.held) > 790
        assert sum(event.claim for event in shop.parking.events) < (400 if hangs else 100)


class Mail(DistributedEventHandler[OrderPlaced | Rated]):
    """Fails for each event, or hangs."""

    def __init__(self) -> None:
        self.hangs = False

    async def handle(self, event: OrderPlaced | Rated) -> None:
        if self.hangs:
            await asyncio.Event().wait()
        raise ConnectionError("mail service")


@in_virtual_time
async def test_a_probe_in_which_the_process_dies_counts_as_a_start() -> None:
    shop = Shop({"later_delays": (10_000.0,)})
    async with shop.running():
        await shop.break_down()
        shop.place(1)
        await shop.settled(6)
        reached, reach = asyncio.Event(), shop.parking.start

        async def dying(*arguments: Any, **options: Any) -> Any:
            start = await reach(*arguments, **options)
            reached.set()
            await asyncio.Event().wait()
            return start

        shop.parking.start = dying  # type: ignore[method-assign]
        shop.parking.postpone = _forgotten  # type: ignore[method-assign]
        await reached.wait()
    vars(shop.parking).clear()
    shop.parking.__init__(shop.database)  # type: ignore[misc]
    (event,) = [each for each in shop.parking.events if each.event_id == "e1"]
    assert (event.attempts, event.held_by, event.due_at is not None) == (1, None, True)


async def _forgotten(*_: object, **__: object) -> None:
    pass


@in_virtual_time
async def test_while_nothing_is_held_the_next_delivery_is_the_probe() -> None:
    shop = Shop({"later_delays": (10_000.0,)})
    async with shop.running():
        await shop.break_down()
        await asyncio.sleep(10)
        shop.is_up = True
        shop.place(1, 2)
        await shop.settled(7)
        assert shop.effects == [1, 2]


# Order.


@pytest.mark.parametrize("away", [0.5, 120.0, 2 * HOURS])
@in_virtual_time
async def test_keys_stay_in_order_and_nothing_waits_for_a_person_after_the_service_was_away(away: float) -> None:
    shop = Shop({"ordering": "key", "later_delays": (30, 120, 600, 3600, 21_600), "retry_delays": (0, 1, 3)})
    numbers = defaultdict[str, list[int]](list)
    async with shop.running(), shop.running(shop.consuming()):
        shop.is_up = False
        for number in range(80):
            numbers[f"customer {number % 16}"].append(number)
            shop.place(number, key=f"customer {number % 16}")
        await asyncio.sleep(away)
        shop.is_up = True
        await until(lambda: len(shop.effects) == 80)
    assert shop.parking.events == ()
    assert shop.order == numbers


@in_virtual_time
async def test_an_event_behind_a_parked_one_of_its_key_is_parked_behind_it_while_the_circuit_is_open() -> None:
    shop = Shop({"ordering": "key"})
    shop.acts[1] = failing(FatalEventError("never"))
    async with shop.running():
        shop.place(1, key="customer")
        await shop.settled(1)
        await shop.break_down()
        shop.place(2, key="customer")
        await shop.settled(7)
        (event,) = [each for each in shop.parking.events if each.event_id == "e2"]
        assert (event.reason, event.held_by, event.due_at) == ("key-parked", None, None)


# The pause of the subscription.


@in_virtual_time
async def test_the_broker_keeps_the_events_while_every_type_that_arrived_lately_is_held() -> None:
    shop = Shop({"prefetch": 8, "later_delays": (10_000.0,)})
    async with shop.running():
        await asyncio.sleep(301)
        with capture_logs() as logs:
            await shop.break_down()
            shop.place(*range(1, 500))
            await asyncio.sleep(600)
        assert len(shop.held) <= 8
        assert {tuple(line["handlers"]) for line in lines(logs, "consumer pauses its subscription")} == {(CHARGE,)}
        assert logs[-1]["event"] != "consumer resumes its subscription"
        shop.is_up = True
        await until(lambda: len(shop.effects) == 499)


@in_virtual_time
async def test_in_its_first_minutes_a_consumer_goes_on_pulling_since_it_does_not_know_yet_which_types_arrive() -> None:
    shop = Shop({"prefetch": 8})
    async with shop.running():
        await shop.break_down()
        shop.place(*range(1, 100))
        shop.place(900, kind="rated")
        placed = now()
        await until(lambda: 900 in shop.rated)
        assert now() - placed < 1


@in_virtual_time
async def test_while_another_type_arrives_the_consumer_goes_on_pulling() -> None:
    shop = Shop({"prefetch": 8})
    async with shop.running():
        shop.place(900, kind="rated")
        await shop.break_down()
        shop.place(*range(1, 100))
        shop.place(901, kind="rated")
        await until(lambda: 901 in shop.rated)
        assert len(shop.held) >= 95


# Other processes, and people.


@in_virtual_time
async def test_a_new_process_probes_a_handler_whose_events_another_process_held() -> None:
    shop = Shop({"later_delays": (10_000.0,)})
    async with shop.running():
        await shop.break_down()
        shop.place(1, 2, 3)
        await shop.settled(8)
    started = now()
    async with shop.running(shop.consuming()):
        await until(lambda: shop.starts_of(1, 2, 3))
        await asyncio.sleep(0.5)
        assert shop.starts_of(1, 2, 3) == [started]
        shop.is_up = True
        await until(lambda: len(shop.effects) == 3)
        assert now() - started < 5


def _withdrawn(shop: Shop) -> tuple[dict[int, ParkedEvent], dict[int, ParkedEvent]]:
    """Remove the held events from the table for a while, and return the table and the events."""
    table, held = shop.database.tables["mediator_parked"], {each.number: each for each in shop.held}
    for number in held:
        del table[number]
    return table, held


@in_virtual_time
async def test_a_process_whose_handler_succeeds_lets_go_the_events_that_another_process_holds() -> None:
    shop = Shop({"later_delays": (10_000.0,)})
    async with shop.running():
        await shop.break_down()
        shop.place(1, 2, 3)
        await shop.settled(8)
    shop.is_up = True
    table, held = _withdrawn(shop)
    async with shop.running(shop.consuming()):
        shop.place(4)
        await shop.settled(9)
        table.update(held)
        await until(lambda: sorted(shop.effects) == [1, 2, 3, 4])


@in_virtual_time
async def test_held_events_are_let_go_also_when_the_last_call_of_the_handler_failed() -> None:
    shop = Shop({"later_delays": (10_000.0,)})
    async with shop.running():
        await shop.break_down()
        shop.place(1, 2, 3)
        await shop.settled(8)
    shop.is_up = True
    table, held = _withdrawn(shop)
    shop.acts[4] = failing(ValueError("poison"))
    async with shop.running(shop.consuming()):
        shop.place(4)
        await shop.settled(9)
        table.update(held)
        await until(lambda: sorted(shop.effects) == [1, 2, 3])


@in_virtual_time
async def test_a_process_probes_soon_when_another_process_lets_its_held_events_go() -> None:
    shop = Shop({"later_delays": (10_000.0,), "prefetch": 200})
    async with shop.running():
        await shop.break_down()
        shop.place(*range(1, 100))
        await shop.settled(104)
        await asyncio.sleep(300)
        with capture_logs() as logs:
            shop.is_up = True
            for event in shop.held:
                shop.database.tables["mediator_parked"][event.number] = replace(event, held_by=None, due_at=now())
            recovered = now()
            await until(lambda: lines(logs, "circuit closed"))
            assert now() - recovered < 10
        await until(lambda: len(shop.effects) == 99)


def _counted_claims(shop: Shop) -> list[float]:
    claims, claim = list[float](), shop.parking.claim

    async def counting(*arguments: Any, **options: Any) -> Any:
        claims.append(now())
        return await claim(*arguments, **options)

    shop.parking.claim = counting  # type: ignore[method-assign]
    return claims


@in_virtual_time
async def test_two_processes_that_disagree_about_a_handler_load_the_database_little() -> None:
    shop = Shop({"later_delays": (10_000.0,), "prefetch": 200})
    async with shop.running():
        await shop.break_down()
        shop.place(*range(1, 100))
        await shop.settled(104)
        claims, stops = _counted_claims(shop), now() + 30

        async def let_go() -> None:
            while now() < stops:
                for event in shop.held:
                    shop.database.tables["mediator_parked"][event.number] = replace(event, held_by=None, due_at=now())
                await asyncio.sleep(0.5)

        await let_go()
        assert len(claims) < 30 * 60


@in_virtual_time
async def test_events_of_a_handler_that_no_longer_exists_are_let_go() -> None:
    shop = Shop()
    async with shop.running():
        await shop.break_down()
        shop.place(1)
        await shop.settled(6)
    (event,) = shop.held
    shop.is_up = True
    shop.database.tables["mediator_parked"][event.number] = _renamed(event)
    async with shop.running(shop.consuming()):
        await until(lambda: 1 in shop.effects)


def _renamed(event: ParkedEvent) -> ParkedEvent:
    fields = {name: getattr(event, name) for name in ParkedEvent.__slots__}
    return ParkedEvent(**{**fields, "held_by": "shop.Renamed"})


@in_virtual_time
async def test_a_person_replays_a_held_event_at_once() -> None:
    shop = Shop()
    async with shop.running():
        await shop.break_down()
        shop.place(1)
        await shop.settled(6)
    shop.is_up = True
    which = ParkedFilter(held_by=CHARGE)
    assert [each.outcome async for each in ParkedReplay(shop.parking, [shop.consumer]).run(which)] == ["replayed"]
    assert shop.effects == [1]


@in_virtual_time
async def test_a_held_event_whose_replay_fails_is_held_with_the_new_error_and_takes_effect_by_itself_later() -> None:
    shop = Shop()
    async with shop.running():
        await shop.break_down()
        shop.place(1)
        await shop.settled(6)
    (number,) = [event.number for event in shop.held]
    replay = ParkedReplay(shop.parking, [shop.consumer])
    await shop.parking.edit(number, data=b"{}")
    assert [each.outcome async for each in replay.run(ParkedFilter(numbers=(number,)))] == ["failed"]
    await shop.parking.edit(number, data=b'{"number": 1}')
    (held,) = shop.held
    assert (held.held_by, held.due_at, held.reason) == (CHARGE, None, "circuit-open")
    assert held.error.startswith("EventNotDecodableError: ")

    shop.is_up = True
    async with shop.running(shop.consuming()):
        await until(lambda: 1 in shop.effects)


# What the log says.


@in_virtual_time
async def test_the_log_names_the_handler_and_the_error_when_a_circuit_opens_and_closes() -> None:
    shop = Shop({"later_delays": (10_000.0,)})
    with capture_logs() as logs:
        async with shop.running():
            await shop.break_down()
            shop.place(1)
            await asyncio.sleep(3)
            shop.is_up = True
            await until(lambda: shop.effects)
    (opened,) = lines(logs, "circuit opened")
    assert (opened["handler"], opened["error"], opened["log_level"]) == (CHARGE, "ConnectionError", "error")
    assert lines(logs, "probe failed")[0]["handler"] == CHARGE
    (closed,) = lines(logs, "circuit closed")
    assert (closed["handler"], closed["log_level"]) == (CHARGE, "info")


@in_virtual_time
async def test_many_held_events_fill_no_log() -> None:
    shop = Shop({"prefetch": 1000, "concurrency": 16})
    with capture_logs() as logs:
        async with shop.running():
            await shop.break_down()
            shop.place(*range(1, 900))
            await shop.settled(900)
    assert len([line for line in logs if line["log_level"] in ("warning", "error")]) < 40


# Stops.


@in_virtual_time
async def test_a_probe_that_a_stop_interrupts_costs_no_attempt() -> None:
    shop, waiting = Shop({"later_delays": (10_000.0,)}), asyncio.Event()

    async def hang(_event: OrderPlaced) -> None:
        waiting.set()
        await asyncio.Event().wait()

    shop.acts[1] = hang
    async with shop.running():
        await shop.break_down()
        shop.place(1)
        await shop.settled(6)
        shop.is_up = True
        await waiting.wait()
    (event,) = [each for each in shop.parking.events if each.event_id == "e1"]
    assert (event.attempts, event.due_at) == (0, now())
    del shop.acts[1]
    async with shop.running(shop.consuming()):
        await until(lambda: shop.effects == [1])
