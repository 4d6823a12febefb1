"""Requests to another application: the same promises in memory and over NATS."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any, ClassVar

import pytest
import structlog

from mediator import Command, MessageContext, Query, current_context
from mediator.distributed.callers import Caller
from mediator.distributed.requests import RemoteCall, RemoteSender, RequestChannel, RequestResponder, trust_broker
from mediator.errors import (
    AfterCommitError,
    CommitOutcomeUnknownError,
    DeclarationError,
    HandlerNotFoundError,
    NotAuthorizedError,
    RemoteFailedError,
    RemoteRefusedError,
    RemoteResponseError,
    RemoteTimeoutError,
    RemoteUnavailableError,
    SettingError,
)
from mediator.nats import NatsRequestChannel, NatsServer, open_connection
from mediator.testing import InMemoryRequestChannel
from tests.unit.wiring import handles, wire


@dataclass(frozen=True)
class Advisor:
    name: str
    courses: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class FindAdvisor(Query[Advisor | None]):
    request_type: ClassVar[str] = "advising.find-advisor"
    student: str


@dataclass(frozen=True)
class AssignAdvisor(Command[None]):
    request_type: ClassVar[str] = "advising.assign-advisor"
    student: str


@dataclass(frozen=True)
class FindTeacher(Query[Advisor]):
    """The same request, declared by another application."""

    request_type: ClassVar[str] = "advising.find-advisor"
    student: int


Channels = Callable[[], Awaitable[RequestChannel]]


@contextlib.asynccontextmanager
async def in_memory() -> AsyncIterator[Channels]:
    channel = InMemoryRequestChannel()

    async def another() -> RequestChannel:
        return channel

    yield another


@contextlib.asynccontextmanager
async def over_nats() -> AsyncIterator[Channels]:
    async with contextlib.AsyncExitStack() as stack:
        server = await stack.enter_async_context(NatsServer())

        async def another() -> RequestChannel:
            connection = await stack.enter_async_context(open_connection(server.url))
            return NatsRequestChannel(connection, "advising")

        yield another


@pytest.fixture(params=[in_memory, over_nats])
async def channels(request: pytest.FixtureRequest) -> AsyncIterator[Channels]:
    async with request.param() as opened:
        yield opened


@contextlib.asynccontextmanager
async def answering(
    channels: Channels, work: Any, *, exposes: Any = (FindAdvisor,), authenticate: Any = trust_broker, **options: Any
) -> AsyncIterator[RemoteSender]:
    """Run an application that answers requests, and yield a sender in another application."""
    mediator = wire(*(handles(cls, work) for cls in exposes))
    responder = RequestResponder(await channels(), mediator, exposes=exposes, authenticate=authenticate, **options)
    sender = RemoteSender(await channels())
    running = asyncio.create_task(responder.run())
    try:
        await until_exposed(sender, exposes[0])
        yield sender
    finally:
        running.cancel()
        await asyncio.wait({running})
        if not running.cancelled():
            running.result()


async def until_exposed(sender: RemoteSender, request_class: Any) -> None:
    """Wait until a responder sends any answer to requests of the name."""
    async with asyncio.timeout(10):
        while True:
            try:
                await sender.send(request_class("probe"))
            except RemoteUnavailableError:
                await asyncio.sleep(0.01)
            except (RemoteFailedError, RemoteRefusedError, RemoteResponseError):
                return
            else:
                return


async def ada(request: Any) -> Advisor | None:
    return None if request.student == "nobody" else Advisor("Ada", [request.student])


async def test_a_request_returns_the_response_of_the_handler_in_the_other_application(channels):
    async with answering(channels, ada) as sender:
        assert await sender.send(FindAdvisor("Grace")) == Advisor("Ada", ["Grace"])
        assert await sender.send(FindAdvisor("nobody")) is None


async def test_a_request_that_no_application_answers_fails_at_once(channels):
    sender = RemoteSender(await channels(), timeout=30)
    with pytest.raises(RemoteUnavailableError, match="no application serves requests of this name") as caught:
        async with asyncio.timeout(10):
            await sender.send(FindAdvisor("Grace"))
    assert caught.value.request == FindAdvisor("Grace")


async def test_a_request_that_is_not_exposed_cannot_be_reached_although_it_has_a_handler(channels):
    async with answering(channels, ada, exposes=(FindAdvisor,)) as sender:
        with pytest.raises(RemoteUnavailableError):
            await sender.send(AssignAdvisor("Grace"))


async def test_a_request_without_an_answer_in_time_has_an_unknown_outcome(channels):
    cancelled = asyncio.Event()

    async def slow(request: Any) -> None:
        if request.student != "probe":
            try:
                await asyncio.Event().wait()
            finally:
                cancelled.set()

    async with answering(channels, slow, exposes=(AssignAdvisor,)) as sender:
        with pytest.raises(RemoteTimeoutError, match=r"within 0\.2 s"):
            await sender.send(AssignAdvisor("Grace"), timeout=0.2)
        async with asyncio.timeout(5):
            await cancelled.wait()  # the handler does not run on without a sender


async def test_an_error_is_answered_without_class_and_text_but_with_a_reference_to_the_log(channels):
    async def fail(_request: Any) -> None:
        raise LookupError("secret 4711")

    async with answering(channels, fail) as sender:
        with structlog.testing.capture_logs() as logs, pytest.raises(RemoteFailedError) as caught:
            await sender.send(FindAdvisor("Grace"))
    assert "4711" not in str(caught.value)
    assert "LookupError" not in str(caught.value)
    (line,) = [line for line in logs if line["event"] == "request failed"]
    assert (line["error"], line["request"]) == ("LookupError", "advising.find-advisor")
    assert line["message_id"] == caught.value.reference != ""


async def test_the_texts_of_errors_that_may_be_shown_are_answered(channels):
    async def fail(_request: Any) -> None:
        raise LookupError("no advisor is free")

    async with answering(channels, fail, shown_errors=(LookupError,)) as sender:
        with pytest.raises(RemoteFailedError, match="LookupError: no advisor is free"):
            await sender.send(FindAdvisor("Grace"))


async def test_a_committed_request_is_answered_with_its_response_despite_later_errors(channels):
    async def commit_and_fail(_request: Any) -> None:
        raise AfterCommitError("tx", Advisor("Ada"), (), (ValueError("late"),))

    async with answering(channels, commit_and_fail) as sender:
        assert await sender.send(FindAdvisor("Grace")) == Advisor("Ada")


async def test_correlation_and_tenant_are_sent_unverified_and_the_principal_is_not_sent(channels):
    seen: list[MessageContext] = []

    async def look(_request: Any) -> None:
        seen.append(current_context())

    async with answering(channels, look, exposes=(AssignAdvisor,)) as sender:
        here = wire()
        async with here.context(
            principal="ada", tenant="münchen", correlation_id="flow", headers={"a": "b"}
        ) as context:
            await sender.send(AssignAdvisor("Grace"))
    there = seen[-1]
    assert (there.correlation_id, there.unverified.tenant) == ("flow", "münchen")
    assert (there.tenant, there.principal, there.vouched_by) == (None, None, None)
    assert "a" not in there.headers
    assert there.causation_id != context.message_id  # the cause is the request on the wire


async def test_the_other_application_decides_for_whom_a_request_is_handled(channels):
    async def known(call: RemoteCall) -> Caller:
        if call.headers.get("authorization") != "Bearer t0ken":
            raise NotAuthorizedError(call.name, None, "no valid token")
        return Caller("enrollment", "acme")

    async def whoami(_request: Any) -> Advisor:
        context = current_context()
        return Advisor(f"{context.principal} of {context.tenant}, says {context.vouched_by}")

    async def credentials() -> dict[str, str]:
        return {"authorization": "Bearer t0ken"}

    async with answering(channels, whoami, authenticate=known) as sender:
        with pytest.raises(RemoteRefusedError, match="no valid token") as caught:
            await sender.send(FindAdvisor("Grace"))
        assert caught.value.reference
        trusted = RemoteSender(await channels(), credentials=credentials)
        assert await trusted.send(FindAdvisor("Grace")) == Advisor("enrollment of acme, says known")


async def test_a_failing_authenticator_accepts_no_caller_and_reveals_nothing(channels):
    async def broken(_call: RemoteCall) -> Caller:
        raise RuntimeError("secret 4711")

    async with answering(channels, ada, authenticate=broken) as sender:
        with pytest.raises(RemoteRefusedError, match="not authorized") as caught:
            await sender.send(FindAdvisor("Grace"))
    assert "4711" not in str(caught.value)


async def test_the_refusal_of_an_undecodable_request_does_not_contain_its_values(channels):
    async with answering(channels, ada, exposes=(FindTeacher,), authenticate=trust_broker) as sender:
        with pytest.raises(RemoteRefusedError, match=r"Expected `int`, got `str` - at `\$\.student`"):
            await sender.send(FindAdvisor("Grace"))


async def test_the_error_of_an_undecodable_response_reports_that_the_request_was_handled(channels):
    async def nothing(_request: Any) -> None:
        return None

    async with answering(channels, nothing, exposes=(FindAdvisor,)) as sender:
        with pytest.raises(RemoteRefusedError):
            await sender.send(FindTeacher(7))
    async with answering(channels, nothing, exposes=(FindTeacher,)) as sender:
        with pytest.raises(RemoteResponseError, match="was handled"):
            await sender.send(FindTeacher(7))


async def test_requests_beyond_the_waiting_limit_are_answered_busy(channels):
    release = asyncio.Event()
    begun = asyncio.Event()

    async def wait(request: Any) -> None:
        if request.student != "probe":
            begun.set()
            await release.wait()

    options: dict[str, Any] = {"exposes": (AssignAdvisor,), "concurrency": 1, "waiting": 1}
    async with answering(channels, wait, **options) as sender, asyncio.TaskGroup() as group:
        first = group.create_task(sender.send(AssignAdvisor("first")))
        await begun.wait()
        others = [asyncio.ensure_future(sender.send(AssignAdvisor("other"))) for _ in range(3)]
        turned_away = asyncio.as_completed(others)
        for _ in range(2):
            with pytest.raises(RemoteUnavailableError, match="too many requests already wait"):
                await next(turned_away)
        release.set()
        await next(turned_away)
        await first


async def test_a_stopping_responder_finishes_running_requests_and_accepts_no_more(channels):
    begun, release = asyncio.Event(), asyncio.Event()

    async def wait(request: Any) -> None:
        if request.student != "probe":
            begun.set()
            await release.wait()

    mediator = wire(handles(AssignAdvisor, wait))
    responder = RequestResponder(await channels(), mediator, exposes=[AssignAdvisor], authenticate=trust_broker)
    sender = RemoteSender(await channels())
    running = asyncio.create_task(responder.run())
    await until_exposed(sender, AssignAdvisor)
    at_hand = asyncio.create_task(sender.send(AssignAdvisor("Grace")))
    await begun.wait()
    running.cancel()
    release.set()
    assert await at_hand is None
    await asyncio.wait({running})
    with pytest.raises(RemoteUnavailableError):
        await sender.send(AssignAdvisor("Grace"))


class Undeclared(Query[int]):
    pass


class BadlyNamed(Query[int]):
    request_type: ClassVar[str] = "Not A Name"


class Unanswered(Query):  # type: ignore[type-arg]
    request_type: ClassVar[str] = "advising.unanswered"


class Unreadable(Query[complex]):
    request_type: ClassVar[str] = "advising.unreadable"


@pytest.mark.parametrize(
    ("request_class", "problem"),
    [
        (Undeclared, "has no request_type"),
        (BadlyNamed, "has the request_type 'Not A Name'"),
        (Unanswered, "does not declare the type of its response"),
        (Unreadable, "cannot be sent"),
        (int, "is not a Request"),
    ],
)
async def test_a_class_that_cannot_be_encoded_is_refused_on_both_sides(request_class, problem):
    channel = InMemoryRequestChannel()
    with pytest.raises(DeclarationError, match=problem):
        await RemoteSender(channel).send(request_class())
    with pytest.raises(DeclarationError, match=problem):
        RequestResponder(channel, wire(), exposes=[request_class], authenticate=trust_broker)


async def test_impossible_settings_are_refused_by_the_constructors():
    channel = InMemoryRequestChannel()

    def make(exposes: Any, **options: Any) -> RequestResponder:
        return RequestResponder(
            channel, wire(handles(FindAdvisor, ada)), exposes=exposes, authenticate=trust_broker, **options
        )

    with pytest.raises(HandlerNotFoundError):
        make([AssignAdvisor])
    with pytest.raises(DeclarationError, match="and so has FindAdvisor"):
        make([FindAdvisor, FindTeacher])
    with pytest.raises(SettingError, match="exposes"):
        make([])
    with pytest.raises(SettingError, match="concurrency"):
        make([FindAdvisor], concurrency=0)
    with pytest.raises(SettingError, match="waiting"):
        make([FindAdvisor], waiting=0)
    with pytest.raises(SettingError, match="drain_timeout"):
        make([FindAdvisor], drain_timeout=0)
    for timeout in (0, 3601):
        with pytest.raises(SettingError, match="timeout"):
            RemoteSender(channel, timeout=timeout)
        with pytest.raises(SettingError, match="timeout"):
            await RemoteSender(channel).send(FindAdvisor("Ada"), timeout=timeout)


@dataclass(frozen=True)
class Odd(Query[None]):
    request_type: ClassVar[str] = "advising.odd"
    value: Any


async def test_a_request_that_cannot_be_encoded_is_refused_and_not_sent(channels):
    sender = RemoteSender(await channels())
    with pytest.raises(RemoteRefusedError, match="the request or its headers cannot be encoded"):
        await sender.send(Odd(object()))


async def test_a_cancelled_handler_fails_its_request_and_the_responder_keeps_working(channels):
    async def work(request: Any) -> Advisor:
        if request.student == "cancelled":
            task = asyncio.create_task(asyncio.sleep(60))
            await asyncio.sleep(0)
            task.cancel()
            await task
        return Advisor("Ada")

    async with answering(channels, work, concurrency=1) as sender:
        for _ in range(3):
            with pytest.raises(RemoteFailedError):
                await sender.send(FindAdvisor("cancelled"))
        assert await sender.send(FindAdvisor("Grace")) == Advisor("Ada")


async def test_a_cancelled_authenticator_refuses_its_request_and_the_responder_keeps_working(channels):
    cancelled = ["cancelled"]

    async def authenticate(_call: RemoteCall) -> Caller | None:
        if cancelled:
            raise asyncio.CancelledError
        return None

    async with answering(channels, ada, authenticate=authenticate, concurrency=1) as sender:
        for _ in range(3):
            with pytest.raises(RemoteRefusedError, match="not authorized"):
                await sender.send(FindAdvisor("Grace"))
        cancelled.clear()
        assert await sender.send(FindAdvisor("Grace")) == Advisor("Ada", ["Grace"])


async def test_a_response_that_cannot_be_encoded_is_not_reported_as_a_failed_handler(channels):
    async def work(request: Any) -> Any:
        return object()

    with structlog.testing.capture_logs() as logs:
        async with answering(channels, work) as sender:
            with pytest.raises(RemoteResponseError) as caught:
                await sender.send(FindAdvisor("Grace"))
    (line,) = [line for line in logs if line.get("message_id") == caught.value.reference]
    assert (line["event"], line["log_level"]) == ("response not sent", "error")
    assert "object" in line["stack"]
    assert caught.value.reason == "the other application cannot encode the response"  # without the error's text


async def test_a_hanging_authenticator_is_cancelled_when_the_sender_stops_waiting(channels):
    hanging = asyncio.Event()

    async def authenticate(call: RemoteCall) -> Caller | None:
        if "hang" in call.headers:
            hanging.set()
            await asyncio.Event().wait()
        return None

    async def credentials() -> dict[str, str]:
        return {"hang": "1"}

    async with answering(channels, ada, authenticate=authenticate, concurrency=1) as sender:
        with pytest.raises(RemoteTimeoutError):
            await RemoteSender(await channels(), timeout=0.2, credentials=credentials).send(FindAdvisor("Grace"))
        assert hanging.is_set()
        assert await sender.send(FindAdvisor("Grace")) == Advisor("Ada", ["Grace"])


async def test_credentials_that_time_out_are_an_error_and_nothing_is_sent(channels):
    async def credentials() -> dict[str, str]:
        await asyncio.Event().wait()
        return {}

    sender = RemoteSender(await channels(), timeout=0.05, credentials=credentials)
    with pytest.raises(RemoteUnavailableError, match="`credentials` returned nothing before the timeout"):
        async with asyncio.timeout(5):
            await sender.send(FindAdvisor("Grace"))


async def test_a_commit_of_unknown_outcome_is_not_reported_as_failed(channels):
    async def work(request: Any) -> Any:
        if request.student == "Grace":
            raise CommitOutcomeUnknownError("transaction-1", "the connection was lost")
        return Advisor("Ada")

    with structlog.testing.capture_logs() as logs:
        async with answering(channels, work) as sender:
            with pytest.raises(RemoteTimeoutError):
                await sender.send(FindAdvisor("Grace"), timeout=0.5)
    assert "CommitOutcomeUnknownError" in [line.get("error") for line in logs]


async def test_a_handler_that_cancels_its_own_task_does_not_stop_the_responder(channels):
    async def work(request: Any) -> Advisor:
        if request.student == "Grace":
            task = asyncio.current_task()
            assert task is not None
            task.cancel()
            await asyncio.sleep(0)
        return Advisor("Ada")

    async with answering(channels, work, concurrency=1) as sender:
        with pytest.raises(RemoteTimeoutError):
            await sender.send(FindAdvisor("Grace"), timeout=0.5)
        assert await sender.send(FindAdvisor("Alan")) == Advisor("Ada")


# Failing requests do not delay others.

_AT_ONCE = 2.0
"""Seconds within which a request is answered despite hanging requests, also on a busy machine."""


def hanging_beside(started: asyncio.Event | None = None) -> Any:
    """`FindAdvisor` is answered, and `AssignAdvisor` hangs."""

    async def work(request: Any) -> Any:
        if isinstance(request, FindAdvisor) or request.student == "probe":
            return Advisor("Ada") if isinstance(request, FindAdvisor) else None
        if started is not None:
            started.set()
        return await asyncio.Event().wait()

    return work


@contextlib.asynccontextmanager
async def flooded(sender: RemoteSender, count: int) -> AsyncIterator[list["asyncio.Future[Any]"]]:
    asking = [asyncio.ensure_future(sender.send(AssignAdvisor(f"{n}"), timeout=60)) for n in range(count)]
    try:
        yield asking
    finally:
        for each in asking:
            each.cancel()
        await asyncio.wait(asking)


@pytest.mark.parametrize("concurrency", [2, 16])
async def test_hanging_requests_of_one_name_do_not_delay_those_of_another(channels, concurrency: int):
    exposes = (FindAdvisor, AssignAdvisor)
    started = asyncio.Event()
    async with (
        answering(
            channels, hanging_beside(started), exposes=exposes, concurrency=concurrency, drain_timeout=0.1
        ) as sender,
        flooded(sender, 3 * concurrency),
    ):
        async with asyncio.timeout(10):
            await started.wait()
        for _ in range(5):
            async with asyncio.timeout(_AT_ONCE):
                assert await sender.send(FindAdvisor("Grace"), timeout=30) == Advisor("Ada")


async def test_a_line_full_of_requests_of_one_name_does_not_turn_away_another_name(channels):
    exposes = (FindAdvisor, AssignAdvisor)
    options: Any = {"exposes": exposes, "concurrency": 2, "waiting": 3, "drain_timeout": 0.1}
    async with answering(channels, hanging_beside(), **options) as sender, flooded(sender, 12) as asking:
        busy = asyncio.as_completed(asking, timeout=10)
        for _ in range(8):  # one request is handled, and three requests wait
            with pytest.raises(RemoteUnavailableError, match="too many requests already wait at the responder"):
                await next(busy)
        async with asyncio.timeout(_AT_ONCE):
            found = await asyncio.gather(*(sender.send(FindAdvisor(f"{n}"), timeout=30) for n in range(2)))
        assert found == [Advisor("Ada")] * 2


async def test_callers_that_gave_up_leave_the_waiting_line(channels):
    options: Any = {"exposes": (AssignAdvisor,), "concurrency": 1, "waiting": 2, "drain_timeout": 0.1}
    started = asyncio.Event()
    async with answering(channels, hanging_beside(started), **options) as sender, flooded(sender, 1):
        async with asyncio.timeout(10):
            await started.wait()
        turned_away = 0
        for _ in range(6):  # twice the waiting limit; all senders give up except those of hanging requests
            with pytest.raises((RemoteTimeoutError, RemoteUnavailableError)) as caught:
                await sender.send(AssignAdvisor("Grace"), timeout=0.1)
            turned_away += caught.type is RemoteUnavailableError
        assert turned_away < 3  # the sender times out shortly before the responder notices


@pytest.mark.thorough("waits in real time, or does much work")
async def test_a_slow_authentication_for_one_name_delays_no_other_name_and_times_out(channels):
    async def authenticate(call: RemoteCall) -> None:
        if call.name == AssignAdvisor.request_type and call.timeout > 30:
            await asyncio.Event().wait()

    options: Any = {
        "exposes": (FindAdvisor, AssignAdvisor),
        "concurrency": 2,
        "authenticate": authenticate,
        "drain_timeout": 0.1,
    }
    async with (
        answering(channels, hanging_beside(), handler_timeout=1.0, **options) as sender,
        flooded(sender, 1) as (asking,),
    ):
        for _ in range(3):
            async with asyncio.timeout(_AT_ONCE):
                assert await sender.send(FindAdvisor("Grace"), timeout=20) == Advisor("Ada")
        async with asyncio.timeout(10):
            with pytest.raises(RemoteRefusedError):
                await asking


async def test_a_request_is_cancelled_after_the_limit_of_the_responder_although_its_sender_would_wait(channels):
    options: Any = {"exposes": (AssignAdvisor,), "concurrency": 1, "handler_timeout": 0.3, "drain_timeout": 0.1}
    async with answering(channels, hanging_beside(), **options) as sender:
        for _ in range(2):
            async with asyncio.timeout(10):
                with pytest.raises(RemoteFailedError):
                    await sender.send(AssignAdvisor("Grace"), timeout=60)
