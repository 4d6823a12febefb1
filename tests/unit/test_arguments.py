"""Wrong arguments: each is refused with a clear error by the function that receives it."""

from dataclasses import dataclass
from typing import Any

import pytest

from mediator import Command, Concurrent, Notification, Sequential, StreamRequest
from mediator.errors import DeclarationError, SettingError
from mediator.registry import Registry
from mediator.strategies import PublishStrategy
from mediator.testing import RecordingMediator
from tests.unit.samples import EnrollStudent, StudentEnrolled, answer_name, answer_none
from tests.unit.wiring import handles, listens, streams, wire


@dataclass(frozen=True, slots=True)
class ListStudents(StreamRequest[str]):
    pass


@dataclass
class Changeable(PublishStrategy):
    """A strategy that is compared by value and is mutable, and therefore not hashable."""

    log: list[str]

    async def run(self, calls: Any, notification: Any, /) -> None:
        self.log.append("run")


async def names(_request: Any) -> Any:
    yield "Ada"


@pytest.fixture
def mediator() -> Any:
    return wire(
        handles(EnrollStudent, answer_name), listens(StudentEnrolled, answer_none), streams(ListStudents, names)
    )


@pytest.mark.parametrize("mode", ["nested", None, 3, "DEFAULT"])
async def test_a_wrong_mode_is_refused_wherever_a_mode_is_given(mediator: Any, mode: Any):
    wanted = pytest.raises(SettingError, match=r"mode=.*no TransactionMode. Write `mode=TransactionMode\.NESTED`")
    with wanted:
        await mediator.send(EnrollStudent(), mode=mode)
    with wanted:
        await mediator.publish(StudentEnrolled(), mode=mode)
    with wanted:
        mediator.stream(ListStudents(), mode=mode)
    with wanted:
        async with mediator.scope(mode):
            pass
    async with mediator.scope():
        with wanted:
            await mediator.send(EnrollStudent(), mode=mode)
        assert await mediator.send(EnrollStudent("Ada")) == "Ada"


@pytest.mark.parametrize(
    ("strategy", "remedy"),
    [
        (Concurrent, r"Write `strategy=Concurrent\(\)`"),
        ("concurrent", r"Write `strategy=Sequential\(\)`"),
        ([], r"Write `strategy=Sequential\(\)`"),
        (Changeable([]), "Make Changeable a frozen dataclass"),
    ],
)
async def test_a_wrong_strategy_is_refused_wherever_a_strategy_is_given(mediator: Any, strategy: Any, remedy: str):
    for _ in range(2):
        with pytest.raises(SettingError, match=remedy):
            await mediator.publish(StudentEnrolled(), strategy=strategy)
    with pytest.raises(SettingError, match=remedy):
        mediator.publish_after_commit(StudentEnrolled(), strategy=strategy)
    with pytest.raises(SettingError, match=remedy):
        Registry(strategy=strategy)

    class Wrong(Notification):
        publish_strategy = strategy

    with pytest.raises(SettingError, match=remedy):
        await mediator.publish(Wrong())


@pytest.mark.parametrize("form", ["xml", "", None, []])
def test_a_wrong_format_is_refused(mediator: Any, form: Any):
    with pytest.raises(SettingError, match="none of text, json, mermaid"):
        mediator.describe(EnrollStudent, format=form)


async def test_a_recording_mediator_refuses_the_same_arguments():
    recording: Any = RecordingMediator()
    recording.expect(EnrollStudent).returns("Ada")
    for call in (
        lambda: recording.send(EnrollStudent(), mode="nested"),
        lambda: recording.publish(StudentEnrolled(), mode="nested"),
        lambda: recording.publish(StudentEnrolled(), strategy=Concurrent),
    ):
        with pytest.raises(SettingError):
            await call()
    with pytest.raises(SettingError):
        recording.stream(ListStudents(), mode="nested")
    with pytest.raises(SettingError):
        recording.publish_after_commit(StudentEnrolled(), strategy="none")
    assert (recording.sent, recording.published, recording.after_commit) == ([], [], [])


class NewEachTime(Sequential):
    """A strategy that is compared by identity."""

    __eq__ = object.__eq__
    __hash__ = object.__hash__


async def test_pipelines_compiled_for_ever_new_strategy_objects_are_not_kept(mediator: Any):
    for _ in range(600):
        await mediator.publish(StudentEnrolled(), strategy=NewEachTime())
    kept = [value for value in vars(mediator.registry).values() if isinstance(value, dict)]
    assert sum(map(len, kept)) < 300
    assert mediator.registry.pipeline(StudentEnrolled, Concurrent()) is mediator.registry.pipeline(
        StudentEnrolled, Concurrent()
    )


class Both(Command[str], Notification):
    pass


class AskedTwice(Command[str], StreamRequest[str]):
    pass


async def test_a_message_of_several_kinds_is_refused_by_each_of_its_dispatches():
    mediator: Any = wire(
        handles(Both, answer_none),
        listens(Both, answer_none),
        handles(AskedTwice, answer_none),
        streams(AskedTwice, names),
    )
    with pytest.raises(DeclarationError, match="Both is a Request and a Notification"):
        await mediator.send(Both())
    with pytest.raises(DeclarationError, match="which are dispatched in different ways"):
        await mediator.publish(Both())
    with pytest.raises(DeclarationError, match="which are dispatched in different ways"):
        await mediator.publish(Both(), strategy=Concurrent())
    with pytest.raises(DeclarationError, match="AskedTwice is a Request and a StreamRequest"):
        mediator.stream(AskedTwice())
    with pytest.raises(DeclarationError, match="which are dispatched in different ways"):
        await mediator.send(AskedTwice())
