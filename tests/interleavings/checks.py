"""The promises that hold when all faults have ended and all processes are done."""

from collections import Counter
from collections.abc import Awaitable, Iterable
from dataclasses import dataclass, field
from typing import Any

from mediator.errors import CommitOutcomeUnknownError, CommittedError, MediatorError, RemoteUnavailableError
from mediator.testing import InMemoryBroker
from tests.interleavings.applications import ATTEMPTS, Application, Orders, Placed, PlannedError, Shipped, Shipping

_PROCESS_DIED = "process-died"


@dataclass
class History:
    """Records the answers to the senders of commands and requests, and some log lines.

    Attributes:
        commands: "committed", "rolled back" or "unknown", by the numbers of orders.
        requests: "answered", "not begun" or "unknown", by the numbers of reservations.
        deadly: The orders that kill their process.
        kills: How many processes were killed from outside.
        accused: The ids of the events that were parked because a process died.
        stuck: The numbers of events that still waited at the end, by place.
    """

    deadly: frozenset[int] = frozenset()
    commands: dict[int, str] = field(default_factory=dict)
    requests: dict[int, str] = field(default_factory=dict)
    kills: int = 0
    accused: set[str] = field(default_factory=set)
    stuck: dict[str, int] = field(default_factory=dict)

    async def note_command(self, number: int, sending: Awaitable[Any]) -> None:
        try:
            await sending
            self.commands[number] = "committed"
        except CommittedError:
            self.commands[number] = "committed"
        except CommitOutcomeUnknownError:
            pass
        except (MediatorError, PlannedError, RuntimeError):
            self.commands[number] = "rolled back"

    async def note_request(self, number: int, sending: Awaitable[Any]) -> None:
        try:
            await sending
            self.requests[number] = "answered"
        except RemoteUnavailableError:
            self.requests[number] = "not begun"
        except (MediatorError, RuntimeError):
            pass

    def note_log(self, line: dict[str, Any]) -> None:
        if line["event"] == "event parked" and line.get("reason") == _PROCESS_DIED:
            self.accused.add(line["event_id"])


def check(
    orders: Orders, shipping: Shipping, broker: InMemoryBroker, history: History, *, by_key: bool, most_deaths: int
) -> None:
    assert not any(history.stuck.values()), f"stuck: {history.stuck}"
    _check_answers(orders, shipping, history)
    numbers = orders.numbers | shipping.numbers
    keys = {numbers[event.id]: event.partitionkey for event in broker.events}
    _check_events("Placed", orders.rows("orders"), _stream(broker, orders, Placed), keys, in_order=True)
    _check_events("Shipped", shipping.rows("shipments"), _stream(broker, shipping, Shipped), keys, in_order=True)
    _check_events("shipments", _stream(broker, orders, Placed), shipping.rows("shipments"), keys, in_order=by_key)
    _check_events("shipped", _stream(broker, shipping, Shipped), orders.rows("shipped"), keys, in_order=by_key)
    accused = {shipping.numbers.get(each, orders.numbers.get(each, 0)) for each in history.accused}
    if history.kills < ATTEMPTS - 1:  # an event that is killed from outside in each start looks like one that kills
        innocent = accused - history.deadly
        assert not innocent, f"parked as the cause of a death, but innocent: {innocent}"
    deaths = shipping.plan.deaths
    assert all(count <= most_deaths for count in deaths.values()), f"killed too many processes: {deaths}"


def _check_answers(orders: Orders, shipping: Shipping, history: History) -> None:
    """Check that nobody was told that something happened which did not, or the reverse."""
    written = Counter(orders.rows("orders"))
    for number, answer in history.commands.items():
        wanted = {"committed": (1,), "rolled back": (0,), "unknown": (0, 1)}[answer]
        assert written[number] in wanted, f"order {number}: told {answer}, and written {written[number]} times"
    reserved = Counter(shipping.rows("reservations"))
    for number, answer in history.requests.items():
        wanted = {"answered": (1,), "not begun": (0,), "unknown": (0, 1)}[answer]
        assert reserved[number] in wanted, f"reservation {number}: {answer}, and made {reserved[number]} times"


def _check_events(
    name: str, wanted: list[int], found: list[int], keys: dict[int, str | None], *, in_order: bool
) -> None:
    doubled = [number for number, count in Counter(found).items() if count > 1]
    assert not doubled, f"{name}: doubled {doubled}"
    assert set(wanted) <= set(found), f"{name}: lost {sorted(set(wanted) - set(found))}"
    assert set(found) <= set(wanted), f"{name}: ghosts {sorted(set(found) - set(wanted))}"
    for key in set(keys.values()) - {None} if in_order else ():
        before, after = _of(key, wanted, keys), _of(key, found, keys)
        assert before == after, f"{name}: order of key {key} was {before}, became {after}"


def _of(key: str | None, numbers: Iterable[int], keys: dict[int, str | None]) -> list[int]:
    return [number for number in numbers if keys[number] == key]


def _stream(broker: InMemoryBroker, application: Application, event_class: type[Placed | Shipped]) -> list[int]:
    wire = f"{event_class.event_type}."
    return [application.numbers[event.id] for event in broker.events if event.type.startswith(wire)]
