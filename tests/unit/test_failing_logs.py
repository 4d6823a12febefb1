"""Failing log processors and listeners: the work continues, and a later log line reports the lost lines."""

import asyncio
import logging
from collections.abc import Iterator, MutableMapping
from typing import Any

import pytest
import structlog
from hypothesis import given, settings
from hypothesis import strategies as st
from structlog.testing import capture_logs

from mediator import (
    DistributedEventBroker,
    DistributedUnitOfWorkBehavior,
    LoggingBehavior,
    Mediator,
    PipelineBehavior,
    current_scope,
)
from mediator.behaviors import add_message_context
from mediator.binding import Binding
from mediator.distributed.requests import RequestResponder, trust_broker
from mediator.errors import PublisherUnavailableError
from mediator.logger import Guard, Logger
from mediator.registry import Registry
from mediator.testing import InMemoryDatabase, InMemoryOutbox, InMemoryRequestChannel, InMemoryUnitOfWork
from tests.contracts.test_requests import AssignAdvisor, RemoteSender, until_exposed
from tests.unit.distributed.inbox.application import Application, failing
from tests.unit.distributed.outbox.test_relay import Broker, event, put, relaying
from tests.unit.samples import EnrollStudent, answer_name
from tests.unit.wiring import bind, handles, wire


class Sink:
    """A log processor that keeps the lines, or fails while `fails` is set."""

    def __init__(self, *outcomes: bool) -> None:
        self.fails = True
        self.outcomes = list(outcomes)
        self.lines: list[MutableMapping[str, Any]] = []
        self.attempts = 0

    def __call__(self, _logger: Any, _method: str, line: MutableMapping[str, Any]) -> Any:
        self.attempts += 1
        if self.outcomes.pop(0) if self.outcomes else self.fails:
            raise OSError(28, "No space left on device")
        self.lines.append(line)
        raise structlog.DropEvent


@pytest.fixture
def sink() -> Iterator[Sink]:
    made = Sink()
    structlog.configure(processors=[made])
    yield made
    structlog.reset_defaults()


def transactional(database: InMemoryDatabase, work: Any, *outside: Any) -> Mediator:
    """Return a mediator whose commands run in transactions of a database in memory."""

    def unit_of_work() -> InMemoryUnitOfWork:
        instances = current_scope().instances
        if InMemoryUnitOfWork not in instances:
            instances[InMemoryUnitOfWork] = InMemoryUnitOfWork(database)
        found: InMemoryUnitOfWork = instances[InMemoryUnitOfWork]
        return found

    def transaction() -> Any:
        unit = unit_of_work()
        return DistributedUnitOfWorkBehavior(unit, DistributedEventBroker(unit), InMemoryOutbox(database))

    async def handle(command: Any) -> Any:
        unit_of_work().table("students")[command.name] = "enrolled"
        return await work(command)

    behavior = Binding(transaction, DistributedUnitOfWorkBehavior, "transaction", PipelineBehavior)
    return Mediator(Registry([bind(handles(EnrollStudent, handle))], [*map(bind, outside), behavior], []))


async def test_a_command_commits_and_returns_although_no_line_can_be_written(sink: Sink) -> None:
    database = InMemoryDatabase()
    mediator = transactional(database, answer_name, LoggingBehavior)
    assert await mediator.send(EnrollStudent()) == "Ada"
    assert database.tables["students"] == {"Ada": "enrolled"}
    assert sink.attempts == 3


async def test_a_command_that_fails_raises_its_own_error_although_no_line_can_be_written(sink: Sink) -> None:
    async def fail(_command: Any) -> None:
        raise LookupError("on purpose")

    database = InMemoryDatabase()
    with pytest.raises(LookupError, match="on purpose"):
        await transactional(database, fail, LoggingBehavior).send(EnrollStudent())
    assert database.tables.get("students", {}) == {}


async def test_lost_lines_are_reported_before_the_next_line_that_can_be_written(sink: Sink) -> None:
    log = Logger(worker="relay")
    log.info("one")
    log.error("two")
    sink.fails = False
    log.info("three")
    log.info("four")
    assert [line["event"] for line in sink.lines] == ["log lines lost", "three", "four"]
    lost = sink.lines[0]
    assert (lost["lines"], lost["error"], lost["worker"]) == (2, "OSError", "relay")
    assert "No space left" in lost["reason"]


@settings(max_examples=30, deadline=None)
@given(outcomes=st.lists(st.booleans(), max_size=30))
def test_each_line_is_written_or_counted_once(outcomes: list[bool]) -> None:
    sink = Sink(*outcomes)
    structlog.configure(processors=[sink])
    try:
        log = Logger()

        async def write() -> None:
            for number in range(len(outcomes)):
                log.info("line", number=number)
            sink.outcomes, sink.fails = [], False
            log.info("last")

        asyncio.run(write())
    finally:
        structlog.reset_defaults()
    written = [line for line in sink.lines if line["event"] == "line"]
    lost = sum(line["lines"] for line in sink.lines if line["event"] == "log lines lost")
    assert len(written) + lost == len(outcomes)


async def test_a_consumer_keeps_working_although_no_line_can_be_written(sink: Sink) -> None:
    application = Application(options={"retry_delays": (0.0,)})
    application.acts[1] = failing(LookupError())
    application.publish(1, 2)
    async with application.running():
        await application.settled(2)
    assert application.effects == [2]
    assert application.parked() == [("e1", "handler-failed", 2)]
    assert sink.attempts > 3


async def test_a_relay_survives_an_outage_although_no_line_can_be_written(sink: Sink) -> None:
    database, broker = InMemoryDatabase(), Broker()
    broker.errors["shop"] = PublisherUnavailableError("nats://broker", "away")
    put(database, event("1"))
    async with relaying(database, broker, poll_interval=0.01):
        await broker.until(lambda: broker.calls > 2)
        broker.errors.clear()
        await broker.until(lambda: broker.stored == ["1"])
        sink.fails = False
        broker.refused.add("2")
        put(database, event("2"))
        await broker.until(lambda: not database.outbox)
    assert "log lines lost" in [line["event"] for line in sink.lines]


async def test_a_responder_answers_although_no_line_can_be_written(sink: Sink) -> None:
    async def work(request: Any) -> None:
        if request.student == "bad":
            raise LookupError("on purpose")

    channel = InMemoryRequestChannel()
    mediator = wire(handles(AssignAdvisor, work))
    responder = RequestResponder(channel, mediator, exposes=[AssignAdvisor], authenticate=trust_broker)
    sender = RemoteSender(channel)
    running = asyncio.create_task(responder.run())
    await until_exposed(sender, AssignAdvisor)
    with pytest.raises(Exception, match="failed in the application"):
        await sender.send(AssignAdvisor("bad"))
    assert await sender.send(AssignAdvisor("good")) is None
    running.cancel()
    await asyncio.wait({running})
    assert running.cancelled()
    assert sink.attempts > 1


def test_every_line_can_be_passed_to_the_standard_library(caplog: pytest.LogCaptureFixture) -> None:
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            add_message_context,
            structlog.stdlib.render_to_log_kwargs,
        ],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
    )

    async def fail(_command: Any) -> None:
        raise LookupError("on purpose")

    async def run() -> None:
        mediator = transactional(InMemoryDatabase(), answer_name, LoggingBehavior(log_payload=True))
        with structlog.contextvars.bound_contextvars(request_id="1"):
            await mediator.send(EnrollStudent())
        with pytest.raises(LookupError):
            await transactional(InMemoryDatabase(), fail, LoggingBehavior).send(EnrollStudent())

    try:
        with caplog.at_level(logging.DEBUG, "mediator"):
            asyncio.run(run())
    finally:
        structlog.reset_defaults()
    lines = [
        (record.getMessage(), vars(record)["message_type"]) for record in caplog.records if record.name == "mediator"
    ]
    names = [
        "transaction begun",
        "transaction committed",
        "handled",
        "transaction begun",
        "transaction rolled back",
        "failed",
    ]
    assert lines == [(name, "EnrollStudent") for name in names]


async def test_a_message_that_cannot_be_shown_is_handled_and_logged_without_its_payload() -> None:
    def redact(_message: Any) -> Any:
        raise KeyError("no such field")

    behavior = bind(LoggingBehavior, lambda: LoggingBehavior(log_payload=True, redact=redact))
    with capture_logs() as logs:
        assert await wire(handles(EnrollStudent, answer_name), behaviors=[behavior]).send(EnrollStudent()) == "Ada"
    assert (logs[0]["event"], logs[0]["payload"]) == ("handled", "the payload cannot be shown: KeyError")


def test_a_failing_watcher_is_reported_once_with_a_count_and_reported_again_when_it_works() -> None:
    outcomes = iter([OSError("full"), OSError("full"), None, None])

    def watch(value: int) -> int:
        if (error := next(outcomes)) is not None:
            raise error
        return value

    guard = Guard("telemetry")
    with capture_logs() as logs:
        assert [guard(watch, number) for number in range(4)] == [None, None, 2, 3]
    assert [(line["event"], line["watcher"]) for line in logs] == [
        ("watcher failed", "telemetry"),
        ("watcher works again", "telemetry"),
    ]
    assert (logs[0]["error"], logs[1]["failures"]) == ("OSError", 2)
