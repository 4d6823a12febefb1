"""Comparisons: every measured ratio, with its reference, its goal and its ceiling."""

from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

from dependency_injector import providers

from tests.benchmarks.application import Rename, Renamed, publishing, sending, started
from tests.benchmarks.by_hand import publishing_by_hand, sending_by_hand
from tests.benchmarks.importing import importing
from tests.benchmarks.measuring import Loop, Times, measure
from tests.benchmarks.peers import Peer, installed_peers

OURS, THEIRS = "mediator", "compared"


@dataclass(frozen=True)
class Comparison:
    """One row of the table.

    Attributes:
        name: The measured operation.
        against: The alternative to the library.
        goal: The intended maximum of the ratio.
        ceiling: The ratio above which a test fails: up to a quarter above the ratio of a quiet machine,
            because the ratio of the same code differs between processors.
        times: Measures both in the given number of rounds.
        subject: The name of the library's contender.
        reference: The name of the other contender.
    """

    name: str
    against: str
    goal: float
    ceiling: float
    times: Callable[[int], Awaitable[Times]]
    subject: str = OURS
    reference: str = THEIRS


def comparisons() -> Iterator[Comparison]:
    yield from _sends()
    yield from _publishes()
    for peer in installed_peers():
        for behaviors in (0, 3, 5):
            yield _against_peer(peer, behaviors)
    yield Comparison("import", "what it stands on", 1.3, 1.85, importing, "mediator", "what it stands on")


def _sends() -> Iterator[Comparison]:
    for behaviors, goal, ceiling in ((0, 1.75, 2.0), (3, 1.25, 1.5), (5, 1.25, 1.45)):
        times = partial(_send_times, behaviors, providers.Factory)
        yield Comparison(f"send, {behaviors} behaviors", "by hand", goal, ceiling, times)
    for behaviors, ceiling in ((3, 2.05), (5, 2.05)):
        times = partial(_send_times, behaviors, providers.Singleton)
        yield Comparison(f"send, {behaviors} behaviors made once", "by hand", 1.5, ceiling, times)


def _publishes() -> Iterator[Comparison]:
    for handlers, ceiling in ((1, 1.8), (5, 1.2), (10, 1.15)):
        times = partial(_publish_times, handlers)
        yield Comparison(f"publish, {handlers} handler{'s' * (handlers > 1)}", "by hand", 1.15, ceiling, times)


def _against_peer(peer: Peer, behaviors: int) -> Comparison:
    times = partial(_peer_times, peer, behaviors)
    made_once = " made once" if peer.made_once else ""
    return Comparison(f"send, {behaviors} behaviors{made_once}", peer.name, 1.0, peer.ceiling, times)


async def _send_times(behaviors: int, kind: Any, rounds: int) -> Times:
    container, message = sending(behaviors, kind), Rename("Ada")
    loops = {OURS: _send(container, message), THEIRS: sending_by_hand(container, behaviors, message)}
    return measure(loops, rounds)


async def _publish_times(handlers: int, rounds: int) -> Times:
    container, notification = publishing(handlers), Renamed("Ada")
    mediator = started(container)

    async def loop(count: int) -> None:
        for _ in range(count):
            await mediator.publish(notification)

    return measure({OURS: loop, THEIRS: publishing_by_hand(container, handlers, notification)}, rounds)


async def _peer_times(peer: Peer, behaviors: int, rounds: int) -> Times:
    container = sending(behaviors, providers.Singleton if peer.made_once else providers.Factory)
    return measure({OURS: _send(container, Rename("Ada")), THEIRS: peer.set_up(behaviors)}, rounds)


def _send(container: Any, message: Any) -> Loop:
    mediator = started(container)

    async def loop(count: int) -> None:
        for _ in range(count):
            await mediator.send(message)

    return loop
