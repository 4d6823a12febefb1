"""Circuits: while all calls of a handler class fail, the consumer sets the events of the handler aside, untried.

All calls fail, for example, when a service that the handler needs is down. Without a circuit, each event would use up
its tries before the service is back, and a person would have to replay the event.
"""

import asyncio
import random
from collections.abc import Callable, Iterable, Sequence
from types import TracebackType
from typing import Self

from mediator.distributed.backoff import Backoff
from mediator.distributed.inbox.handler import DistributedEventHandler
from mediator.distributed.inbox.subscription import Deliveries
from mediator.distributed.parking import error_text
from mediator.logger import Logger, RateLimitedLogger
from mediator.mediator import Mediator
from mediator.printable import shown, traceback_of

CIRCUIT_FAILURES: int = 5
"""By default, a circuit opens when this many different events have failed one after the other."""
_FIRST_PAUSE = 1.0
_LONGEST_PAUSE = 30.0
"""The longest pause between two probes, in seconds."""
_LATELY = 300.0
"""The newest delivery and the last delivery of an event class may be this many seconds apart, if the class is to count
as delivered lately. When the consumer starts, all event classes count as just delivered.
"""


class HandlerCircuit:
    """The circuit of one handler class in this process.

    The circuit is closed at first, and all events pass. The circuit opens when `failures` different events have failed
    one after the other. While the circuit is open, only one event at a time passes, as a probe. The pause before a
    probe grows from 1 s to 30 s. A probe that succeeds closes the circuit. Other events, which were already being handled
    when the circuit opened, neither close it nor keep it open.

    Attributes:
        name: The name of the handler class, with its module.
        error: The text of the error that opened the circuit, or of the last failed probe.
        is_open: Whether the events of the handler are set aside.
        holds: Whether events of this handler are held in the database, as far as this process knows. Other processes may
            hold them too.
    """

    def __init__(self, name: str, failures: int, rng: random.Random, log: Logger) -> None:
        self.name: str = name
        self.error: str = ""
        self.is_open: bool = False
        self.holds: bool = False
        self._failures = failures
        self._failed: set[str] = set()
        self._has_succeeded = False
        self._is_probed = False
        self._next_probe = 0.0
        self._last_probe = 0.0
        self._opened = 0.0
        self._pauses = Backoff(_FIRST_PAUSE, _LONGEST_PAUSE, rng)
        self._log = log
        self._limited_log = RateLimitedLogger(log)

    @property
    def is_untested(self) -> bool:
        """Whether no call of the handler has ended in this process."""
        return not (self._has_succeeded or self.is_open or self._failed)

    @property
    def probe_in(self) -> float | None:
        """Seconds until the next probe; `None` while the circuit is closed or a probe runs."""
        return max(0.0, self._next_probe - _now()) if self.is_open and not self._is_probed else None

    def begin_probe(self) -> None:
        """Record that a probe runs."""
        self._is_probed = True

    def abandon_probe(self) -> None:
        """Record that a probe ended without a result. The next probe may begin after the shortest pause."""
        self._is_probed = False
        self._last_probe = _now()
        self.put_off_probe()

    def put_off_probe(self) -> None:
        """Let the next probe begin after the shortest pause at the earliest."""
        self._next_probe = max(self._next_probe, _now() + _FIRST_PAUSE)

    def hasten_probe(self) -> None:
        """Let the next probe begin when the shortest pause since the last probe is over.

        Call this when another process has found that calls of the handler succeed again.
        """
        self._next_probe = min(self._next_probe, self._last_probe + _FIRST_PAUSE)

    def doubt(self) -> None:
        """Open the circuit because another process holds events of the handler. A probe may begin at once."""
        self._open("another process holds events of this handler", 0.0)
        self._log.warning("circuit opened", handler=self.name, reason=self.error, retry_in=0.0)

    def succeeded(self, *, is_probe: bool) -> None:
        """Record that a call of the handler has succeeded."""
        if is_probe:
            self.is_open = self._is_probed = False
            self._pauses.reset()
            self._log.info("circuit closed", handler=self.name, after=round(_now() - self._opened, 3))
        if not self.is_open:
            self._has_succeeded = True
            self._failed.clear()

    def failed(self, event: str, error: BaseException, *, is_probe: bool) -> None:
        """Record that the handler has failed for an event."""
        if is_probe:
            self._is_probed = False
            self.error = error_text(error)
            pause = self._pause()
            self._limited_log.warning("probe failed", handler=self.name, error=type(error).__name__, retry_in=pause)
        elif not self.is_open:
            self._failed.add(event)
            if len(self._failed) >= self._failures:
                self._open(error_text(error), self._pauses.next())
                kind, stack = type(error).__name__, traceback_of(error)
                pause = round(self._next_probe - self._opened, 3)
                self._log.error("circuit opened", handler=self.name, error=kind, retry_in=pause, stack=stack)

    def _open(self, error: str, pause: float) -> None:
        self.error, self.is_open, self._opened = error, True, _now()
        self._last_probe = self._opened
        self._next_probe = self._opened + pause
        self._failed.clear()

    def _pause(self) -> float:
        pause = self._pauses.next()
        self._last_probe = _now()
        self._next_probe = self._last_probe + pause
        return round(pause, 3)


class Passage:
    """Decides whether one event passes the circuits of its handlers. Leaving the `with` block ends unfinished probes.

    An event with several open circuits passes as a probe of all of them. It passes when the pause of at least one of them
    is over and none of them is being probed. (If it had to wait for all the pauses, one circuit after the other could
    refuse the event, without end.)

    Attributes:
        refused_by: The open circuit that refuses the event; `None` if the event may be handled.
        has_opened: Whether the failure of this event has opened a circuit.
    """

    def __init__(self, circuits: Sequence[HandlerCircuit], changed: Callable[[], None]) -> None:
        are_open = [circuit for circuit in circuits if circuit.is_open]
        is_due = any(each.probe_in == 0.0 for each in are_open) and all(each.probe_in is not None for each in are_open)
        not_due = (each for each in are_open if each.probe_in != 0.0)
        self.refused_by: HandlerCircuit | None = None if is_due else next(not_due, None)
        self.has_opened: bool = False
        self._circuits = circuits
        self._changed = changed
        self._probed = set(are_open) if self.refused_by is None else set[HandlerCircuit]()
        for circuit in self._probed:
            circuit.begin_probe()

    def __enter__(self) -> Self:
        """Return the passage."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Abandon the probes that have no result."""
        for circuit in self._probed:
            circuit.abandon_probe()
        self._probed.clear()

    def put_off_probes(self) -> None:
        """Put off the probes that could begin now, because another circuit has refused the event.

        Otherwise the consumer would claim the next held event at once, and that event would be refused too.
        """
        for circuit in self._circuits:
            if circuit.probe_in == 0.0:
                circuit.put_off_probe()

    def succeeded(self) -> bool:
        """Record that all handlers have succeeded, and return whether the event was a probe."""
        was_probe = bool(self._probed)
        for circuit in self._circuits:
            self._note_success(circuit)
        return was_probe

    def failed(self, handler: type | None, event: str, error: BaseException) -> HandlerCircuit | None:
        """Record that a handler has failed; the handlers before it have succeeded.

        Return the circuit of the handler if it is open now.
        """
        names = [circuit.name for circuit in self._circuits]
        if handler is None or name_of(handler) not in names:
            return None
        place = names.index(name_of(handler))
        for circuit in self._circuits[:place]:
            self._note_success(circuit)
        circuit = self._circuits[place]
        is_probe = circuit in self._probed
        self._probed.discard(circuit)
        was_open = circuit.is_open
        circuit.failed(event, error, is_probe=is_probe)
        self.has_opened = circuit.is_open and not was_open
        if not circuit.is_open:
            return None
        self._changed()
        return circuit

    def _note_success(self, circuit: HandlerCircuit) -> None:
        is_probe = circuit in self._probed
        self._probed.discard(circuit)
        circuit.succeeded(is_probe=is_probe)
        if is_probe:
            self._changed()


class Circuits:
    """The circuits of the handler classes of one consumer.

    The subscription is paused while each event class that was delivered lately has an open circuit that holds events.
    The broker then keeps the further events.

    Args:
        mediator: The mediator whose handlers handle the events.
        failures: The number of different events in a row whose failures open a circuit; `None` for no circuits.
        rng: The random number generator for the jitter of pauses.
        log: Logs when a circuit opens and closes.
        changed: Called when the time of the next probe may have changed.
    """

    def __init__(
        self, mediator: Mediator, failures: int | None, rng: random.Random, log: Logger, *, changed: Callable[[], None]
    ) -> None:
        self._mediator = mediator
        self._failures = failures
        self._rng = rng
        self._log = log
        self._changed = changed
        self._circuits: dict[str, HandlerCircuit] = {}
        self._delivered: dict[type | None, float] = {}
        self._deliveries: Deliveries | None = None
        self._is_paused = False

    def pause_when_held(self, deliveries: Deliveries, event_classes: Iterable[type]) -> None:
        """Pause and resume `deliveries` from now on. At first, all of `event_classes` count as delivered lately."""
        self._deliveries, self._is_paused = deliveries, False
        self._delivered = dict.fromkeys(event_classes, _now())

    def note_delivery(self, event_class: type | None) -> None:
        """Record that an event of a class was delivered; `None` stands for an event without a handler."""
        self._delivered[event_class] = _now()
        if self._is_paused:
            self._update_pause()

    def enter(self, event_class: type | None) -> Passage:
        """Return the passage of an event of the given class. The event becomes a probe if a probe may begin now."""
        return Passage(self._of(event_class), self._has_changed)

    def note_let_go(self, event_class: type | None) -> None:
        """Record that another process let a held event of the given class become due. The circuit there is closed."""
        for circuit in self._of(event_class):
            circuit.hasten_probe()

    def note_hold(self, circuit: HandlerCircuit) -> None:
        """Record that an event was set aside for an open circuit."""
        if not circuit.holds:
            circuit.holds = True
            self._has_changed()

    def note_holders(self, names: Iterable[str]) -> Sequence[str]:
        """Record the names of all handlers with held events, and return the names of those whose events can be let go.

        These are the handlers whose circuits are not open in this process. If this process has not yet called a handler
        whose events another process holds, the circuit of the handler opens here, and the next event is a probe.
        """
        held = frozenset(names)
        if held and self._failures is not None:
            for handler in self._mediator.registry.handlers_of(DistributedEventHandler):
                if name_of(handler.cls) in held and self._circuit(handler.cls).is_untested:
                    self._circuit(handler.cls).doubt()
        for name, circuit in self._circuits.items():
            circuit.holds = name in held
        self._update_pause()
        return sorted(name for name in held if name not in self._circuits or not self._circuits[name].is_open)

    @property
    def may_let_go(self) -> bool:
        """Whether a closed circuit still holds events."""
        return any(each.holds and not each.is_open for each in self._circuits.values())

    def due_probes(self) -> Sequence[HandlerCircuit]:
        """Return the circuits that hold events and can begin a probe now."""
        return [each for each in self._circuits.values() if each.holds and each.probe_in == 0.0]

    @property
    def probe_in(self) -> float | None:
        """Seconds until the next probe of a held event may begin; `None` if no open circuit holds events."""
        pauses = [each.probe_in for each in self._circuits.values() if each.holds]
        return min((pause for pause in pauses if pause is not None), default=None)

    def _of(self, event_class: type | None) -> Sequence[HandlerCircuit]:
        """Return the circuits of the handlers of an event class, in the order of the calls of the handlers."""
        if event_class is None or self._failures is None:
            return ()
        return [self._circuit(handler.cls) for handler in self._mediator.registry.pipeline(event_class).handlers]

    def _circuit(self, handler: type) -> HandlerCircuit:
        name = name_of(handler)
        found = self._circuits.get(name)
        if found is None:
            found = self._circuits[name] = HandlerCircuit(name, self._failures or 1, self._rng, self._log)
        return found

    def _has_changed(self) -> None:
        self._update_pause()
        self._changed()

    def _update_pause(self) -> None:
        deliveries, held_by = self._deliveries, self._holders_of_all()
        if deliveries is None or bool(held_by) == self._is_paused:
            return
        self._is_paused = bool(held_by)
        if self._is_paused:
            deliveries.pause()
            self._log.warning("consumer pauses its subscription", handlers=held_by)
        else:
            deliveries.resume()
            self._log.info("consumer resumes its subscription")

    def _holders_of_all(self) -> Sequence[str]:
        """Return the names of the open circuits that hold all event classes delivered lately.

        The result is empty if events of one of these classes still pass.
        """
        newest = max(self._delivered.values(), default=0.0)
        lately = [event_class for event_class, at in self._delivered.items() if at > newest - _LATELY]
        holding = [[each.name for each in self._of(cls) if each.is_open and each.holds] for cls in lately]
        return sorted({name for names in holding for name in names}) if all(holding) else ()


def name_of(handler: type) -> str:
    """Return the name under which the circuit of a handler class holds events, shortened if it is long."""
    return shown(f"{handler.__module__}.{handler.__qualname__}")


def _now() -> float:
    return asyncio.get_running_loop().time()
