"""Circuit breakers: consecutive failures open a circuit, and one trial message at a time can close it."""

import asyncio
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from structlog.testing import capture_logs

from mediator import Mediator
from mediator.behaviors import Circuit, CircuitBreakerBehavior
from mediator.errors import CircuitOpenError, SettingError
from tests.unit.samples import EnrollStudent
from tests.unit.wiring import handles, wire


class Service:
    """The service that the handlers call. A test sets its answers and the time."""

    def __init__(self) -> None:
        self.error: BaseException | None = None
        self.calls = 0
        self.now = 0.0
        self.gate: asyncio.Event | None = None

    async def __call__(self, message: EnrollStudent) -> str:
        self.calls += 1
        error = self.error
        if self.gate is not None:
            await self.gate.wait()
        if error is not None:
            raise error
        return message.name


@pytest.fixture
def service() -> Service:
    return Service()


@pytest.fixture
def circuit(service: Service) -> Circuit:
    return Circuit(failures=2, seconds=30, clock=lambda: service.now)


@pytest.fixture
def mediator(service: Service, circuit: Circuit) -> Mediator:
    return wire(handles(EnrollStudent, service), behaviors=[CircuitBreakerBehavior(circuit, on=ConnectionError)])


async def fail(mediator: Mediator, service: Service, error: BaseException | None = None) -> None:
    service.error = error or ConnectionError("secret")
    with pytest.raises(type(service.error)):
        await mediator.send(EnrollStudent())
    service.error = None


async def open_it(mediator: Mediator, service: Service) -> None:
    await fail(mediator, service)
    await fail(mediator, service)


async def test_consecutive_failures_open_the_circuit_and_no_message_is_handled(mediator, service, circuit):
    await fail(mediator, service)
    assert await mediator.send(EnrollStudent("Ada")) == "Ada"
    await fail(mediator, service)
    assert not circuit.open
    await fail(mediator, service)
    assert circuit.open
    service.now, message = 10.0, EnrollStudent()
    with pytest.raises(CircuitOpenError, match=r"EnrollStudent was not handled.*in 20 s") as caught:
        await mediator.send(message)
    assert (caught.value.message, caught.value.retry_after, service.calls) == (message, 20.0, 4)


@pytest.mark.parametrize("error", [LookupError(), asyncio.CancelledError()])
async def test_other_errors_and_cancellations_do_not_count_as_failures(mediator, service, circuit, error):
    for _ in range(5):
        await fail(mediator, service, error)
    assert not circuit.open


async def test_after_the_pause_one_trial_message_closes_the_circuit(mediator, service, circuit):
    await open_it(mediator, service)
    service.now, service.gate = 30.0, asyncio.Event()
    trying = asyncio.create_task(mediator.send(EnrollStudent("Ada")))
    await asyncio.sleep(0)
    with pytest.raises(CircuitOpenError, match="when the message that is tried now"):
        await mediator.send(EnrollStudent("Bob"))
    service.gate.set()
    assert await trying == "Ada"
    assert not circuit.open
    await fail(mediator, service)
    assert not circuit.open


async def test_a_failed_trial_opens_the_circuit_for_the_same_time_again(mediator, service, circuit):
    await open_it(mediator, service)
    service.now = 30.0
    await fail(mediator, service)
    assert (circuit.open, circuit.retry_after) == (True, 30.0)


@pytest.mark.parametrize("error", [LookupError(), asyncio.CancelledError()])
async def test_after_an_inconclusive_trial_the_next_message_is_the_trial(mediator, service, circuit, error):
    await open_it(mediator, service)
    service.now = 30.0
    await fail(mediator, service, error)
    assert circuit.open
    assert await mediator.send(EnrollStudent("Ada")) == "Ada"
    assert not circuit.open


async def test_a_message_that_began_before_the_circuit_opened_does_not_close_it(mediator, service, circuit):
    service.gate = asyncio.Event()
    early = asyncio.create_task(mediator.send(EnrollStudent("Ada")))
    await asyncio.sleep(0)
    gate, service.gate = service.gate, None
    await open_it(mediator, service)
    gate.set()
    assert await early == "Ada"
    assert circuit.open


async def test_opening_and_closing_are_logged_without_the_text_of_the_error(mediator, service):
    with capture_logs() as logs:
        await open_it(mediator, service)
        service.now = 30.0
        await mediator.send(EnrollStudent())
    assert [(line["event"], line["message_type"], line.get("error")) for line in logs] == [
        ("circuit opened", "EnrollStudent", "ConnectionError"),
        ("circuit closed", "EnrollStudent", None),
    ]
    assert "secret" not in str(logs)


async def test_two_messages_that_depend_on_one_service_share_its_circuit(service, circuit):
    class Breaker(CircuitBreakerBehavior[EnrollStudent]):
        pass

    first = wire(handles(EnrollStudent, service), behaviors=[Breaker(circuit, on=OSError)])
    second = wire(handles(EnrollStudent, service), behaviors=[Breaker(circuit, on=(OSError, LookupError))])
    await fail(first, service)
    await fail(second, service, LookupError())
    with pytest.raises(CircuitOpenError):
        await first.send(EnrollStudent())


@pytest.mark.parametrize("options", [{"failures": 0}, {"seconds": 0}, {"seconds": float("nan")}])
def test_settings_that_make_no_sense_are_refused(options: Any):
    with pytest.raises(SettingError):
        Circuit(**options)


@given(st.lists(st.sampled_from(["enter", "succeeded", "failed", "abandoned", "wait"])), st.integers(1, 3))
def test_at_most_one_trial_runs_at_a_time_and_a_success_closes_the_circuit(steps: list[str], failures: int):
    now = 0.0
    circuit = Circuit(failures=failures, seconds=10, clock=lambda: now)
    inside: list[bool] = []
    for step in steps:
        if step == "wait":
            now += 7
        elif step == "enter":
            let = circuit.enter()
            inside += [] if let is None else [let]
            assert inside.count(True) <= 1
        elif inside:
            getattr(circuit, step)(inside.pop(0))
    while inside:
        circuit.abandoned(inside.pop())
    now += 10
    trying = circuit.enter()
    assert trying is not None
    circuit.succeeded(trying)
    assert (circuit.open, circuit.enter()) == (False, False)
