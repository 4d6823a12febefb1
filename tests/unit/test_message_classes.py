"""Messages of all kinds of classes: dataclass, attrs, msgspec, pydantic and plain; with and without slots."""

from dataclasses import dataclass
from typing import Any

import attrs
import msgspec
import pydantic
import pytest

from mediator import Command, Notification, RequestHandler
from tests.unit.wiring import handles, listens, wire


@dataclass(frozen=True)
class DataclassCommand(Command[int]):
    number: int


@dataclass(frozen=True, slots=True)
class SlottedDataclassCommand(Command[int]):
    number: int


@attrs.frozen
class AttrsCommand(Command[int]):
    number: int


@attrs.frozen(slots=False)
class UnslottedAttrsCommand(Command[int]):
    number: int


class StructCommand(msgspec.Struct, Command[int], frozen=True):
    number: int


class ModelCommand(pydantic.BaseModel, Command[int]):
    number: int


@pydantic.dataclasses.dataclass(frozen=True)
class PydanticDataclassCommand(Command[int]):
    number: int


class PlainCommand(Command[int]):
    def __init__(self, number: int) -> None:
        self.number = number


class SlottedPlainCommand(Command[int]):
    __slots__ = ("number",)

    def __init__(self, number: int) -> None:
        self.number = number


@dataclass(frozen=True, slots=True)
class DataclassNotification(Notification):
    number: int


@attrs.frozen
class AttrsNotification(Notification):
    number: int


class StructNotification(msgspec.Struct, Notification, frozen=True):
    number: int


class ModelNotification(pydantic.BaseModel, Notification):
    number: int


COMMANDS: list[Any] = [
    DataclassCommand,
    SlottedDataclassCommand,
    AttrsCommand,
    UnslottedAttrsCommand,
    StructCommand,
    ModelCommand,
    PydanticDataclassCommand,
    PlainCommand,
    SlottedPlainCommand,
]
SLOTTED = {SlottedDataclassCommand, AttrsCommand, StructCommand, SlottedPlainCommand}


@pytest.mark.parametrize("command", COMMANDS)
async def test_a_command_may_be_an_object_of_any_class(command: Any):
    async def answer(message: Any) -> int:
        return int(message.number)

    mediator = wire(handles(command, answer))
    assert await mediator.send(command(number=7)) == 7
    assert hasattr(command(number=7), "__dict__") is (command not in SLOTTED)
    assert mediator.describe(command).splitlines()[0] == f"{command.__name__} -> int"


@pytest.mark.parametrize(
    "notification", [DataclassNotification, AttrsNotification, StructNotification, ModelNotification]
)
async def test_a_notification_may_be_an_object_of_any_class(notification: Any):
    heard: list[int] = []

    async def hear(message: Any) -> None:
        heard.append(message.number)

    await wire(listens(Notification, hear)).publish(notification(number=7))
    assert heard == [7]


async def test_one_class_may_handle_several_requests():
    class Both(RequestHandler[DataclassCommand | StructCommand, int]):
        async def handle(self, request: DataclassCommand | StructCommand) -> int:
            return request.number

    mediator = wire(Both)
    assert [await mediator.send(DataclassCommand(1)), await mediator.send(StructCommand(2))] == [1, 2]
