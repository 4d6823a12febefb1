"""Situations: the work of the application at a failpoint, and the preceding steps."""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from mediator.distributed.inbox import ParkedReplay
from mediator.distributed.parking import ParkedFilter
from mediator.errors import RemoteUnavailableError
from tests.faults.failpoints.application import Place, Reserve


@dataclass(frozen=True, slots=True)
class Situation:
    """A piece of work of the application.

    Attributes:
        words: The description in the documentation.
        orders: The orders placed before; if the work is a command, it places the last one.
        streamed: Whether the events of the orders are already in the stream.
        consumed: Whether a consumer has already handled them.
        act: Does the work; a worker does not end by itself.
        repaired: Whether handlers can handle the events that they refused before.
        drain_timeout: Seconds that handlers may take after the consumer was told to stop.
        delivery: The delivery mode of events.
        later_delays: The pauses before the later tries of the consumer, in seconds.
        circuit_failures: The number of failing events that opens the circuit of the handler.
        held: How many of the orders' events the circuit holds at the beginning.
        customers: The customer of each order whose customer is not `ada`.
        sent: The number of the order that is placed again after a failed command.
    """

    words: str
    act: Callable[[Any], Awaitable[None]]
    orders: tuple[str, ...] = ("1",)
    streamed: bool = True
    consumed: bool = False
    repaired: bool = False
    drain_timeout: float = 5.0
    delivery: str = "outbox"
    later_delays: tuple[float, ...] = ()
    circuit_failures: int | None = None
    held: int = 0
    customers: Mapping[str, str] = field(default_factory=dict[str, str])
    sent: str = "1"


async def _send(container: Any) -> None:
    await container.mediator().send(Place("1"))


async def _send_noted(container: Any) -> None:
    await container.mediator().send(Place("noted"))


async def _ask(container: Any) -> None:
    """Send a command through the broker, to a responder in the same process."""
    running = asyncio.ensure_future(container.responder().run())
    try:
        while True:
            try:
                return await container.sender().send(Place("1"))
            except RemoteUnavailableError:  # the responder does not listen yet
                await asyncio.sleep(0.01)
    finally:
        running.cancel()
        await asyncio.wait((running,))


async def _relay(container: Any) -> None:
    await container.relay().run()


async def _consume(container: Any) -> None:
    await container.consumer().run()


async def _stop_consuming(container: Any) -> None:
    """Stop a consumer during a handler."""
    Reserve.hanging = asyncio.Event()  # bound to this event loop
    running = asyncio.ensure_future(container.consumer().run())
    try:
        await Reserve.hanging.wait()
    finally:
        running.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await running


async def _replay(container: Any) -> None:
    async for result in ParkedReplay(container.parking(), [container.consumer()]).run(ParkedFilter()):
        if result.error is not None:
            raise result.error


SITUATIONS = {
    "send": Situation("a command is sent", _send, orders=()),
    "note": Situation("what was to follow the commit is published", _send_noted, orders=(), sent="noted"),
    "direct": Situation("a command delivers its events directly", _send, orders=(), delivery="direct"),
    "ask": Situation("another application sends the command", _ask, orders=()),
    "relay": Situation("the relay publishes its event", _relay, streamed=False),
    "consume": Situation("a consumer takes the event in", _consume),
    "retry": Situation("its handler has failed once", _consume, orders=("flaky",)),
    "stop": Situation(
        "the consumer is told to stop while its handler hangs", _stop_consuming, orders=("hanging",), drain_timeout=0.0
    ),
    "park": Situation("its handler fails each time, and it is parked", _consume, orders=("broken",)),
    "follow": Situation("an event comes whose key is parked", _consume, orders=("broken", "2")),
    "later": Situation(
        "an event that was set aside is tried later, and succeeds",
        _consume, orders=("broken", "2"), consumed=True, repaired=True, later_delays=(0.3, 0.3),
    ),
    "later fails": Situation(
        "an event that was set aside is tried later, and fails again",
        _consume, orders=("broken",), consumed=True, later_delays=(0.3, 3600.0),
    ),
    "hold": Situation(
        "the circuit of its handler opens", _consume, orders=("broken",), circuit_failures=1, later_delays=(3600.0,)
    ),
    "probe": Situation(
        "an event that a circuit holds is the probe, and succeeds",
        _consume, orders=("broken", "2"), consumed=True, repaired=True, circuit_failures=1, held=1,
        later_delays=(3600.0,),
    ),
    "let go": Situation(
        "a circuit has closed, and lets its held events go",
        _consume, orders=("broken", "broken too"), customers={"broken too": "eve"},
        consumed=True, repaired=True, circuit_failures=1, held=2, later_delays=(3600.0,),
    ),
    "replay": Situation(
        "a parked event is replayed after the repair", _replay, orders=("broken",), consumed=True, repaired=True
    ),
}  # fmt: skip
"""The situations by name, in the order of an event's life."""
