"""Pull: how much is requested, when a request is over, and that no slot is lost or taken twice."""

import asyncio
import json
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from nats.aio.msg import Msg

from mediator.nats.subjects import ack_address
from mediator.nats.subscription.delivery import NatsDelivery, Reply
from mediator.nats.subscription.puller import Pull, PullTiming, Slots
from mediator.nats.topology import ConsumerSettings
from tests.unit.virtual_time import settle

TIMING = PullTiming(expires=5.0, heartbeat=1.0, silence=2.5)


class Replies:
    """The replies of deliveries to the broker."""

    def __init__(self) -> None:
        self.bodies: list[bytes] = []

    async def reply(self, _subject: str, body: bytes) -> None:
        self.bodies.append(body)


def message(number: int = 1, remaining: int = 0, *, delivered: int = 1) -> Msg:
    reply = f"$JS.ACK.stream.g.{delivered}.{number}.{number}.1700000000000000000.{remaining}"
    return Msg(_client=None, subject="events.shop.x.3", reply=reply, data=b"{}", headers={})  # type: ignore[arg-type]


def status(**headers: Any) -> Msg:
    return Msg(_client=None, subject="inbox.0.0", reply="", data=b"", headers=headers)  # type: ignore[arg-type]


def delivery(pull: Pull, number: int = 1, remaining: int = 0, replies: Replies | None = None) -> NatsDelivery:
    return read(message(number, remaining), (replies or Replies()).reply, pull.settled)


def read(given: Msg, reply: Reply, settled: Callable[[NatsDelivery], None]) -> NatsDelivery:
    address = ack_address(given.reply)
    assert address is not None
    return NatsDelivery(given, address, reply, settled)


def pull_of(limit: int, slots: Slots | None = None, changes: list[int] | None = None) -> Pull:
    pull = Pull(
        ConsumerSettings("g", ["events.shop.x.*"]),
        limit,
        TIMING,
        slots,
        lambda: None if changes is None else changes.append(1),
    )
    pull.ready = True
    return pull


def ask(pull: Pull, now: float = 0.0) -> dict[str, Any]:
    body: dict[str, Any] = json.loads(pull.request(pull.wanted(), now))
    return body


def test_a_pull_requests_as_many_events_as_fit_and_again_when_half_of_the_room_is_free() -> None:
    pull = pull_of(8)
    pull.ready = False
    assert pull.wanted() == 0
    pull.ready = True
    assert ask(pull) == {"batch": 8, "expires": 5_000_000_000, "idle_heartbeat": 1_000_000_000}
    assert pull.wanted() == 0
    held = [delivery(pull, number) for number in range(8)]
    for number, each in enumerate(held):
        assert pull.accept(each)
        assert pull.wanted() == 0, number
    for each in held[:3]:
        pull.settled(each)
    assert pull.wanted() == 3  # nothing is requested any more
    assert ask(pull)["batch"] == 3
    pull.settled(held[3])
    assert pull.wanted() == 0
    for each in held[4:7]:
        pull.settled(each)
    assert pull.wanted() == 4
    assert len(pull.held) == 1


def test_held_and_requested_events_never_exceed_the_limit_and_excess_events_are_handed_back() -> None:
    pull = pull_of(2)
    ask(pull)
    assert [pull.accept(delivery(pull, number)) for number in range(3)] == [True, True, False]
    assert len(pull.held) == 2
    assert pull.wanted() == 0


def test_the_unserved_rest_of_an_ended_request_is_requested_again() -> None:
    for _ in range(3):
        pull = pull_of(10)
        ask(pull)
        for number in range(4):
            pull.accept(delivery(pull, number))
        pull.expired(status(**{"Nats-Pending-Messages": "6"}))
        assert pull.wanted() == 6
        ask(pull)
        pull.expired(status(**{"Nats-Pending-Messages": "2"}))
        assert pull.wanted() == 0  # four are requested still
        pull.expired(status())
        assert pull.wanted() == 6


def test_a_request_without_heartbeats_is_silent_after_its_time() -> None:
    pull, now = pull_of(4), 100.0
    assert not pull.is_silent(now + 1000)
    for _ in range(2):
        ask(pull, now)
        assert not pull.is_silent(now + 2.4)
        pull.heard(now + 2.0)
        assert not pull.is_silent(now + 4.4)
        assert pull.is_silent(now + 4.5)
        generation = pull.generation
        pull.forget()
        assert pull.generation == generation + 1
        assert not pull.is_silent(now + 1000)
        assert pull.wanted() == 4
        now += 1000


def test_a_second_request_does_not_extend_the_time_of_the_first() -> None:
    pull = pull_of(4)
    ask(pull, 0.0)
    held = [delivery(pull, number) for number in range(3)]
    for each in held:
        pull.accept(each)
    for each in held:
        pull.settled(each)
    ask(pull, 2.4)
    assert pull.is_silent(2.5)


async def test_a_delivery_is_settled_once_and_the_broker_learns_of_it_before_the_next_request() -> None:
    changes: list[int] = []
    pull, replies = pull_of(1, changes=changes), Replies()
    ask(pull)
    one = delivery(pull, replies=replies)
    pull.accept(one)
    assert len(changes) == 1
    await one.nak(1.5)
    assert len(changes) == 2
    assert pull.wanted() == 1
    count = len(changes)
    await one.ack()
    await one.in_progress()
    pull.settled(one)
    assert replies.bodies == [b'-NAK {"delay": 1500000000}']
    assert len(changes) == count


async def test_a_settled_delivery_frees_its_slot_although_the_broker_is_unreachable() -> None:
    async def never(_subject: str, _body: bytes) -> None:
        await asyncio.Event().wait()

    pull = pull_of(1)
    ask(pull)
    one = read(message(), never, pull.settled)
    pull.accept(one)
    telling = asyncio.create_task(one.ack())
    await settle()
    assert (len(pull.held), pull.wanted()) == (0, 1)
    telling.cancel()
    await asyncio.wait((telling,))


async def test_the_reason_of_a_termination_is_shortened_to_one_line() -> None:
    pull, replies = pull_of(1), Replies()
    await delivery(pull, replies=replies).term("not\r\n" + "x " * 500)
    assert replies.bodies == [b"+TERM not " + (b"x " * 98).rstrip()]


async def test_the_broker_receives_the_protocol_messages_of_each_delivery() -> None:
    pull, replies = pull_of(9), Replies()
    for act in ("ack", "nak", "term"):
        one = delivery(pull, replies=replies)
        await one.in_progress()
        await (one.ack() if act == "ack" else one.nak(0) if act == "nak" else one.term("parked\r\nX  y"))
    assert replies.bodies == [b"+WPI", b"+ACK", b"+WPI", b"-NAK", b"+WPI", b"+TERM parked X y"]


async def test_each_message_about_a_delivery_updates_the_time_of_its_last_report(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now = [5.0]
    monkeypatch.setattr("mediator.nats.subscription.delivery.time.monotonic", lambda: now[0])
    one = delivery(pull_of(1))
    assert one.seen == 5.0
    now[0] = 9.0
    await one.in_progress()
    assert one.seen == 9.0
    await one.ack()
    now[0] = 11.0
    await one.in_progress()
    assert one.seen == 9.0


@pytest.mark.parametrize("prefix", ["$JS.ACK.stream.g", "$JS.ACK.domain.account.stream.g"])
def test_a_delivery_reads_its_stream_position_with_and_without_a_domain(prefix: str) -> None:
    reply = f"{prefix}.4.17.9.1700000000500000000.23" + (".token" if "domain" in prefix else "")
    given = Msg(_client=None, subject="events.shop.x.3", reply=reply, data=b"{}", headers={})  # type: ignore[arg-type]
    found = read(given, Replies().reply, lambda _: None)
    assert (found.consumer, found.attempt, found.sequence, found.remaining, found.partition) == ("g", 4, 17, 23, 3)
    assert found.stored_at.timestamp() == 1_700_000_000.5


async def test_a_paused_pull_requests_nothing_and_still_accepts_what_was_requested() -> None:
    changes: list[int] = []
    pull = pull_of(4, changes=changes)
    pull.resume()
    assert changes == []  # there was no pause
    ask(pull)
    for _ in range(2):
        pull.pause()
    held = [delivery(pull, number) for number in range(4)]
    assert [pull.accept(each) for each in held] == [True] * 4
    for each in held:
        await each.ack()
    assert pull.wanted() == 0
    count = len(changes)
    pull.resume()
    assert (len(changes), pull.wanted()) == (count + 1, 4)
    pull.resume()
    assert len(changes) == count + 1


def test_a_paused_pull_requests_nothing_after_its_requests_end_and_its_consumer_is_set_up_again() -> None:
    pull = pull_of(4)
    ask(pull)
    pull.pause()
    pull.expired(status(**{"Nats-Pending-Messages": "3"}))
    assert pull.wanted() == 0
    pull.heard(0.0)
    assert pull.is_silent(2.5)  # one delivery is requested still
    pull.ready = False
    pull.forget()
    pull.ready = True
    assert pull.wanted() == 0
    assert not pull.is_silent(1000.0)
    pull.resume()
    assert pull.wanted() == 4


def test_a_pull_that_is_resumed_while_a_request_is_open_requests_only_the_rest() -> None:
    pull = pull_of(4)
    ask(pull)
    pull.pause()
    for number in range(2):
        one = delivery(pull, number)
        pull.accept(one)
        pull.settled(one)
    pull.resume()
    assert pull.wanted() == 2


# The slots that partitions share.


def granted_slot(slots: Slots) -> tuple[Pull, Pull]:
    """Return a pull that gave its slot back, and a pull that got the slot and has not sent its request yet."""
    busy, other = (pull_of(1, slots) for _ in range(2))
    for pull in (busy, other):
        ask(pull)
    first = delivery(busy)
    assert busy.accept(first)
    assert not other.accept(delivery(other))
    assert other.wanted() == 0
    busy.settled(first)
    assert not slots.take()
    return busy, other


def test_a_slot_without_a_request_is_given_back_at_a_pause_and_asked_for_again_after_it() -> None:
    slots = Slots(1)
    _, other = granted_slot(slots)
    for _ in range(2):
        other.pause()
    assert [slots.take(), slots.take()] == [True, False]
    assert other.wanted() == 0
    other.resume()
    assert other.wanted() == 0  # it has more, and waits for its turn
    slots.give_back()
    assert ask(other) == {"batch": 1, "expires": 1_000_000_000}


def test_a_slot_that_is_granted_during_a_pause_goes_to_the_next_in_the_queue() -> None:
    slots = Slots(1)
    busy, paused, next_one = (pull_of(1, slots) for _ in range(3))
    for pull in (busy, paused, next_one):
        ask(pull)
    first = delivery(busy)
    assert busy.accept(first)
    for pull in (paused, next_one):
        assert not pull.accept(delivery(pull))
        assert pull.wanted() == 0
    paused.pause()
    busy.settled(first)
    assert next_one.wanted() == 1
    assert not slots.take()
    paused.resume()
    assert paused.wanted() == 0
    ask(next_one)
    next_one.expired(status())
    assert paused.wanted() == 1


def test_a_pull_that_is_resumed_before_its_turn_keeps_its_place_in_the_queue() -> None:
    slots = Slots(1)
    busy, first, second = (pull_of(1, slots) for _ in range(3))
    for pull in (busy, first, second):
        ask(pull)
    held = delivery(busy)
    assert busy.accept(held)
    for pull in (first, second):
        assert not pull.accept(delivery(pull))
        assert pull.wanted() == 0
    first.pause()
    first.resume()
    busy.settled(held)
    assert [first.wanted(), second.wanted()] == [1, 0]


def test_a_paused_pull_keeps_a_slot_for_its_delivery_and_for_its_open_request_only() -> None:
    slots = Slots(1)
    pull = pull_of(1, slots)
    ask(pull)
    held = delivery(pull)
    assert pull.accept(held)
    pull.pause()
    assert not slots.take()
    pull.settled(held)
    assert slots.take()
    slots.give_back()
    _, other = granted_slot(slots)
    ask(other)
    other.pause()
    assert not slots.take()
    one = delivery(other)
    assert other.accept(one)  # the request took the slot
    assert not slots.take()
    other.settled(one)
    assert [slots.take(), slots.take()] == [True, False]


def test_a_slot_passes_any_number_of_pulls_that_do_not_need_it() -> None:
    slots = Slots(1)
    assert slots.take()
    pulls = [pull_of(1, slots) for _ in range(3000)]
    for pull in pulls:
        ask(pull)
        assert not pull.accept(delivery(pull))
        assert pull.wanted() == 0
    for pull in pulls[:-1]:
        pull.pause()
    slots.give_back()
    assert not slots.take()
    assert pulls[-1].wanted() == 1


def test_a_partition_with_a_backlog_queues_for_a_slot_and_idle_ones_request_at_any_time() -> None:
    slots = Slots(1)
    busy, other, idle = (pull_of(1, slots) for _ in range(3))
    for pull in (busy, other, idle):
        ask(pull)
    first = delivery(busy, remaining=5)
    assert busy.accept(first)
    assert not other.accept(delivery(other, remaining=3))  # no slot: it is handed back, and waits for one
    assert other.wanted() == 0
    busy.settled(first)
    assert other.wanted() == 1
    assert ask(other) == {"batch": 1, "expires": 1_000_000_000}
    assert busy.wanted() == 0  # it has more, and now waits for its turn
    second = delivery(other, remaining=2)
    assert other.accept(second)
    other.settled(second)
    assert busy.wanted() == 1


def test_an_event_handed_back_without_a_slot_is_requested_again_after_a_slot_is_free() -> None:
    """This holds even if the broker had no more events for the partition: it now has the returned one."""
    slots = Slots(1)
    busy, other = (pull_of(1, slots) for _ in range(2))
    for pull in (busy, other):
        ask(pull)
    first = delivery(busy)
    assert busy.accept(first)
    assert not other.accept(delivery(other, remaining=0))
    assert other.wanted() == 0
    busy.settled(first)
    assert other.wanted() == 1


def test_two_partitions_with_endless_backlogs_take_turns() -> None:
    slots = Slots(1)
    pulls = {name: pull_of(1, slots) for name in "abc"}
    served: list[str] = []
    for _ in range(40):
        for name, pull in pulls.items():
            if pull.wanted():
                ask(pull)
                one = delivery(pull, remaining=9)
                if pull.accept(one):
                    served.append(name)
                    pull.settled(one)
    assert len(served) >= 30
    counts = [served.count(name) for name in "abc"]
    assert max(counts) - min(counts) <= 1


def test_an_unused_slot_is_passed_on() -> None:
    slots = Slots(1)
    busy, other = (pull_of(1, slots) for _ in range(2))
    for pull in (busy, other):
        ask(pull)
    first = delivery(busy, remaining=5)
    busy.accept(first)
    other.accept(delivery(other, remaining=3))
    assert other.wanted() == 0
    busy.settled(first)
    assert busy.wanted() == 0
    ask(other)
    other.expired(status(**{"Nats-Pending-Messages": "1"}))  # another consumer got the slot
    assert busy.wanted() == 1
    assert other.wanted() == 1  # it sends its request as an idle consumer


def test_a_slot_for_a_consumer_in_trouble_is_passed_on() -> None:
    slots = Slots(1)
    busy, other = (pull_of(1, slots) for _ in range(2))
    for pull in (busy, other):
        ask(pull)
    first = delivery(busy, remaining=5)
    busy.accept(first)
    other.accept(delivery(other, remaining=3))
    assert other.wanted() == 0
    other.ready = False
    busy.settled(first)
    assert slots.take()
    slots.give_back()
    assert [busy.wanted(), busy.wanted()] == [0, 1]  # it waits for a slot at the first poll


def test_repeatedly_lost_connections_free_no_slot_of_a_held_delivery() -> None:
    slots = Slots(1)
    busy, other = (pull_of(1, slots) for _ in range(2))
    ask(busy)
    held = delivery(busy)
    assert busy.accept(held)
    for number in range(2):
        for pull in (busy, other):
            pull.forget()
        ask(other)
        assert not other.accept(delivery(other, number))
    busy.settled(held)
    assert [slots.take(), slots.take()] == [True, False]


def test_a_partition_queues_for_a_slot_once() -> None:
    slots = Slots(1)
    busy, other = (pull_of(1, slots) for _ in range(2))
    for pull in (busy, other):
        ask(pull)
    first = delivery(busy, remaining=5)
    busy.accept(first)
    other.accept(delivery(other, remaining=3))
    for _ in range(5):
        assert other.wanted() == 0
    busy.settled(first)
    ask(other)
    second = delivery(other)
    assert other.accept(second)
    other.settled(second)
    assert [slots.take(), slots.take()] == [True, False]


STEPS = ["ask", "come", "settle", "expire", "lose", "pause", "resume"]


@given(st.lists(st.tuples(st.integers(0, 3), st.sampled_from(STEPS)), max_size=60))
def test_held_deliveries_never_exceed_the_slots_and_all_slots_are_free_in_the_end(steps: list[tuple[int, str]]) -> None:
    slots = Slots(2)
    pulls = [pull_of(1, slots) for _ in range(4)]
    requested = [0] * 4
    for number, what in steps:
        pull = pulls[number]
        pull.ready = True
        if what == "ask" and pull.wanted():
            ask(pull)
            requested[number] = 1
        elif what == "come" and requested[number]:
            requested[number] = 0
            pull.accept(delivery(pull, remaining=number % 2))
        elif what == "settle" and pull.held:
            pull.settled(next(iter(pull.held)))
        elif what == "expire" and requested[number]:
            requested[number] = 0
            pull.expired(status())
        elif what == "lose":
            pull.ready = False
            requested[number] = 0
            pull.forget()
        elif what in {"pause", "resume"}:
            getattr(pull, what)()
        assert sum(len(each.held) for each in pulls) <= 2
    for _ in range(3):
        for pull in pulls:
            for one in tuple(pull.held):
                pull.settled(one)
            pull.ready = False
            pull.forget()
    assert [slots.take(), slots.take(), slots.take()] == [True, True, False]


def test_slots_are_given_out_in_the_order_of_asking_even_while_some_keep_asking() -> None:
    slots, granted = Slots(1), list[str]()
    assert slots.take()
    for name in "abc":
        slots.ask(lambda name=name: granted.append(name))  # type: ignore[misc]
    for name in "defg":
        slots.give_back()
        slots.ask(lambda name=name: granted.append(name))  # type: ignore[misc]
    for _ in range(3):
        slots.give_back()
    assert granted == [*"abcdefg"]


def test_more_slots_than_the_limit_are_never_given_out() -> None:
    slots, granted = Slots(2), []
    for _ in range(3):
        assert [slots.take(), slots.take(), slots.take()] == [True, True, False]
        slots.ask(lambda: granted.append(1))
        slots.give_back()
        slots.give_back()
        slots.give_back()
    assert len(granted) == 3
