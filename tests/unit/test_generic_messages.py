"""Messages of generic classes: the handler is chosen by the type arguments, also if they are unknown."""

import types
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any, ClassVar, Generic, TypeVar

import pytest

from mediator.behaviors import (
    AuthorizationBehavior,
    Authorizer,
    RequestPostProcessor,
    RequestPostProcessorBehavior,
    RequestPreProcessor,
    RequestPreProcessorBehavior,
)
from mediator.binding import Binding
from mediator.distributed.events import DistributedEvent
from mediator.distributed.inbox import DistributedEventHandler
from mediator.errors import HandlerNotFoundError
from mediator.handlers import NotificationHandler, RequestHandler, StreamRequestHandler
from mediator.mediator import Mediator
from mediator.messages import Command, Notification, StreamRequest
from mediator.pipeline import NotificationPipelineBehavior, PipelineBehavior
from mediator.registry import Registry
from mediator.streams import StreamPipelineBehavior

T = TypeVar("T")
U = TypeVar("U")


@dataclass(frozen=True)
class Echo(Command[str], Generic[T]):
    value: T


class EchoOfInt(Echo[int]):
    pass


class EchoOfStr(Echo[str]):
    pass


class EchoOfAny(Echo[Any]):
    pass


class EchoOfList(Echo[list[T]]):
    pass


@dataclass(frozen=True)
class Pair(Command[str], Generic[T, U]):
    one: T
    two: U


class IntAnd(Pair[int, U]):
    pass


@dataclass(frozen=True)
class Changed(Notification, Generic[T]):
    value: T


class ChangedInt(Changed[int]):
    pass


@dataclass(frozen=True)
class Renamed(DistributedEvent, Generic[T]):
    event_type: ClassVar[str] = "generic.renamed"
    value: T


@dataclass(frozen=True)
class Numbers(StreamRequest[str], Generic[T]):
    value: T


def handling(kind, *arguments, name, seen=None):
    """Return a binding of a handler class for the given type arguments. The handler returns or records its name."""

    async def handle(_self, *_given):
        if seen is not None:
            seen.append(name)
        return name

    async def items(_self, *_given) -> AsyncIterator[str]:
        yield name

    async def around(_self, *given):
        seen.append(name)
        return await given[-1]()

    async def around_items(_self, _request, call_next):
        seen.append(name)
        async for item in call_next():
            yield item

    methods = {
        StreamRequestHandler: {"handle": items},
        PipelineBehavior: {"handle": around},
        NotificationPipelineBehavior: {"handle": around},
        StreamPipelineBehavior: {"handle": around_items},
        RequestPreProcessor: {"process": handle},
        RequestPostProcessor: {"process": handle},
        Authorizer: {"authorize": handle},
    }
    own = methods.get(kind, {"handle": handle})
    cls = types.new_class(name, (kind[arguments],), exec_body=lambda namespace: namespace.update(own))
    return Binding(cls, cls, f"container.{name}", kind)


def mediator(*handlers, behaviors=(), collaborators=()):
    return Mediator(Registry(handlers, behaviors, collaborators))


OPEN = handling(RequestHandler, Echo[Any], str, name="open")
FOR_INT = handling(RequestHandler, Echo[int], str, name="for_int")
FOR_STR = handling(RequestHandler, Echo[str], str, name="for_str")


@pytest.mark.parametrize("handlers", [(OPEN, FOR_INT, FOR_STR), (FOR_STR, FOR_INT, OPEN)])
@pytest.mark.parametrize(
    ("message", "expected"),
    [
        (Echo("a"), "open"),
        (Echo[str]("a"), "open"),
        (Echo[int](1), "open"),
        (EchoOfInt(1), "for_int"),
        (EchoOfStr("a"), "for_str"),
        (EchoOfAny("a"), "open"),
        (EchoOfList[int]([1]), "open"),
    ],
    ids=lambda value: type(value).__name__,
)
async def test_the_open_handler_handles_messages_with_unknown_type_arguments(handlers, message, expected):
    assert await mediator(*handlers).send(message) == expected


async def test_the_only_handler_handles_every_message_that_may_be_for_it():
    assert await mediator(FOR_INT).send(Echo[int](1)) == "for_int"
    both = handling(RequestHandler, Echo[int] | Echo[str], str, name="both")
    assert await mediator(both).send(Echo("a")) == "both"


async def test_a_message_for_several_possible_handlers_raises_an_error_that_names_them_and_the_remedy():
    ambiguous = mediator(FOR_INT, FOR_STR)
    with pytest.raises(HandlerNotFoundError) as caught:
        await ambiguous.send(Echo[str]("a"))

    assert str(caught.value) == (
        "The type arguments of Echo cannot be known when it is dispatched: `Echo[int](...)` makes a plain Echo object, "
        "and its type arguments are lost. But container.for_int is for Echo[int] and container.for_str is for Echo[str]. "
        "Derive one class for each of these types, such as `class OwnEcho(Echo[int])`, and send objects of these classes; "
        "or write one handler for Echo[Any]."
    )
    assert await ambiguous.send(EchoOfStr("a")) == "for_str"


async def test_partly_known_type_arguments_exclude_the_handlers_they_contradict():
    first = handling(RequestHandler, Pair[int, str], str, name="first")
    second = handling(RequestHandler, Pair[int, int], str, name="second")
    third = handling(RequestHandler, Pair[str, str], str, name="third")
    half = handling(RequestHandler, Pair[int, Any], str, name="half")

    assert await mediator(first, third).send(IntAnd(1, "a")) == "first"
    assert await mediator(first, second, half).send(IntAnd(1, "a")) == "half"
    with pytest.raises(HandlerNotFoundError, match="container.first is for"):
        await mediator(first, second, third).send(IntAnd(1, "a"))


async def test_unknown_inner_type_arguments_exclude_no_handler():
    inner = handling(RequestHandler, Echo[list[int]], str, name="inner")

    assert await mediator(inner, OPEN).send(EchoOfList([1])) == "open"


async def test_the_open_handler_handles_streams_too():
    narrow = handling(StreamRequestHandler, Numbers[int], str, name="narrow")
    wide = handling(StreamRequestHandler, Numbers[Any], str, name="wide")
    async with mediator(narrow, wide).stream(Numbers[str]("a")) as items:
        assert [item async for item in items] == ["wide"]
    other = handling(StreamRequestHandler, Numbers[str], str, name="other")
    with pytest.raises(HandlerNotFoundError, match="Numbers cannot be known"):
        mediator(narrow, other).stream(Numbers[str]("a"))


@pytest.mark.parametrize(("kind", "generic"), [(NotificationHandler, Changed), (DistributedEventHandler, Renamed)])
def test_notifications_and_events_with_unknown_type_arguments_go_to_the_open_handlers(kind, generic):
    narrow = handling(kind, generic[int], name="narrow")
    other = handling(kind, generic[str], name="other")
    wide = handling(kind, generic[Any], name="wide")
    everything = handling(kind, Notification if kind is NotificationHandler else DistributedEvent, name="everything")

    def subscribers(*handlers):
        return [binding.label for binding in Registry(handlers).pipeline(generic).handlers]

    assert subscribers(narrow, wide, other, everything) == ["container.wide", "container.everything"]
    assert subscribers(narrow, everything) == ["container.narrow", "container.everything"]
    with pytest.raises(HandlerNotFoundError, match=r"container.narrow is for \w+\[int\] and container.other is for"):
        subscribers(narrow, other, everything)


async def test_notifications_with_known_type_arguments_go_to_all_matching_handlers():
    seen: list[str] = []
    handlers = [
        handling(NotificationHandler, Changed[argument], name=f"of_{argument}", seen=seen)
        for argument in (int, str, Any)
    ]
    await mediator(*handlers).publish(ChangedInt(1))

    assert seen == ["of_<class 'int'>", "of_typing.Any"]


async def test_behaviors_for_certain_type_arguments_are_skipped_if_the_arguments_are_unknown():
    seen: list[str] = []
    narrow = handling(PipelineBehavior, Echo[int], str, name="narrow", seen=seen)
    wide = handling(PipelineBehavior, Echo[Any], str, name="wide", seen=seen)
    for_all = mediator(OPEN, behaviors=[narrow, wide])

    await for_all.send(Echo[str]("a"))
    assert seen == ["wide"]
    await for_all.send(EchoOfInt(1))
    assert seen == ["wide", "narrow", "wide"]


async def test_behaviors_apply_to_messages_that_go_to_the_only_handler_of_the_same_type_arguments():
    seen: list[str] = []
    same = handling(PipelineBehavior, Echo[int], str, name="same", seen=seen)
    other = handling(PipelineBehavior, Echo[str], str, name="other", seen=seen)

    await mediator(FOR_INT, behaviors=[same, other]).send(Echo[int](1))

    assert seen == ["same"]


async def test_behaviors_of_notifications_and_streams_are_skipped_too():
    seen: list[str] = []
    around_each = handling(NotificationPipelineBehavior, Changed[int], name="around_each", seen=seen)
    around = handling(PipelineBehavior, Changed[int], None, name="around", seen=seen)
    stream = handling(StreamPipelineBehavior, Numbers[int], str, name="stream", seen=seen)
    wide = handling(NotificationHandler, Changed[Any], name="wide", seen=seen)
    items = handling(StreamRequestHandler, Numbers[Any], str, name="items")
    sender = mediator(wide, items, behaviors=[around, around_each, stream])

    await sender.publish(Changed[str]("a"))
    async with sender.stream(Numbers[str]("a")) as found:
        assert [item async for item in found] == ["items"]
    assert seen == ["wide"]
    await sender.publish(ChangedInt(1))
    assert seen == ["wide", "around", "around_each", "wide"]


async def test_processors_for_certain_type_arguments_are_skipped_if_the_arguments_are_unknown():
    seen: list[str] = []
    behaviors = [
        Binding(cls, cls, f"container.{cls.__name__}", PipelineBehavior)
        for cls in (RequestPreProcessorBehavior, RequestPostProcessorBehavior)
    ]
    collaborators = [
        handling(RequestPreProcessor, Echo[int], name="before_int", seen=seen),
        handling(RequestPreProcessor, Echo[Any], name="before", seen=seen),
        handling(RequestPostProcessor, Echo[int], str, name="after_int", seen=seen),
    ]
    sender = mediator(OPEN, behaviors=behaviors, collaborators=collaborators)

    await sender.send(Echo[str]("a"))
    assert seen == ["before"]
    await sender.send(EchoOfInt(1))
    assert seen == ["before", "before_int", "before", "after_int"]


async def test_an_authorizer_that_may_apply_is_never_skipped():
    behavior = Binding(AuthorizationBehavior, AuthorizationBehavior, "container.authorization", PipelineBehavior)
    only_int = handling(Authorizer, Echo[int], name="only_int")
    with pytest.raises(HandlerNotFoundError, match=r"container.only_int is for Echo\[int\]"):
        await mediator(OPEN, behaviors=[behavior], collaborators=[only_int]).send(Echo[int](1))
