"""The report of `validate` contains plausible declarations that cannot work, with the remedy."""

import importlib
import sys
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any, ClassVar

import pytest
from dependency_injector import containers, providers

from mediator.behaviors import Validator
from mediator.dependency_injector import HandlerScan, MediatorProvider, Scoped, lifespan, validate
from mediator.distributed.events import DistributedEvent
from mediator.distributed.unit_of_work import DistributedEventBroker
from mediator.errors import ContainerValidationError, DeclarationError
from mediator.functions import as_handler
from mediator.handlers import NotificationHandler, RequestHandler, StreamRequestHandler
from mediator.mediator import Mediator
from mediator.messages import Command, Notification, Query, StreamRequest
from mediator.pipeline import NotificationPipelineBehavior, PipelineBehavior
from mediator.registry import Registry
from mediator.streams import StreamPipelineBehavior
from mediator.testing import InMemoryDatabase, InMemoryUnitOfWork


@dataclass(frozen=True, slots=True)
class Ask(Query[int]):
    pass


@dataclass(frozen=True, slots=True)
class Said(Notification):
    pass


@dataclass(frozen=True, slots=True)
class Happened(DistributedEvent):
    event_type: ClassVar[str] = "unworkable.happened"


@dataclass(frozen=True, slots=True)
class Watch(StreamRequest[int]):
    pass


class AskHandler(RequestHandler[Ask, int]):
    async def handle(self, _):
        return 1


def container_of(behaviors=(), **named):
    made = containers.DynamicContainer()
    made.mediator = MediatorProvider(behaviors=behaviors)
    for name, provider in named.items():
        setattr(made, name, provider)
    return made


def problems(container, **options):
    with pytest.raises(ContainerValidationError) as caught:
        validate(container, **options)
    return [str(problem) for problem in caught.value.problems]


def only(container, **options):
    (found,) = problems(container, **options)
    return found


# Selectors.


async def test_a_selector_between_behaviors_of_one_class_may_be_listed():
    class Noted(PipelineBehavior[Ask, int]):
        def __init__(self, number: int = 0) -> None:
            self.number = number

        async def handle(self, _, call_next, /):
            return self.number + await call_next()

    config = providers.Configuration(default={"kind": "ten"})
    selector = providers.Selector(config.kind, no=providers.Factory(Noted), ten=providers.Factory(Noted, 10))
    container = container_of(providers.List(selector), config=config, ask=providers.Factory(AskHandler))
    async with lifespan(container):
        assert await container.mediator().send(Ask()) == 11
    container.config.kind.override("no")
    async with lifespan(container):
        assert await container.mediator().send(Ask()) == 1


# Classes without a provider.


class Remembering(AskHandler):
    pass


class SaidHandler(NotificationHandler[Said]):
    async def handle(self, _):
        pass


class Forgetful(containers.DeclarativeContainer):
    mediator = MediatorProvider()
    ask = AskHandler
    said = SaidHandler()
    held = providers.Object(Remembering)


class Outer(containers.DeclarativeContainer):
    mediator = MediatorProvider()
    inner = providers.Container(Forgetful)


def test_a_handler_without_a_provider_is_found():
    class Derived(Forgetful):
        pass

    for cls in (Forgetful, Derived):
        said = "itself, which no mediator finds. Declare a provider of it:"
        assert problems(cls()) == [
            f"container.ask (AskHandler): is the class {said} `ask = providers.Factory(AskHandler, ...)`.",
            f"container.said (SaidHandler): is the object {said} `said = providers.Object(...)`.",
            f"container.held (Remembering): is the class {said} `held = providers.Factory(Remembering, ...)`.",
        ]
    assert [problem.partition(" ")[0] for problem in problems(Outer())] == [
        "container.inner.ask",
        "container.inner.said",
        "container.inner.held",
    ]
    made = container_of()
    made.ask = AskHandler
    assert only(made).startswith("container.ask (AskHandler): is the class itself")


def test_a_handler_class_with_a_provider_may_be_an_attribute_of_the_container():
    class Written(containers.DeclarativeContainer):
        class Handler(AskHandler):
            pass

        Base = NotificationHandler
        mediator = MediatorProvider()
        cls = providers.Object(Handler)
        handler = providers.Factory(Handler)

    validate(Written())


# Scoped objects.


class MyUnitOfWork(InMemoryUnitOfWork):
    pass


@pytest.mark.parametrize("cls", [InMemoryUnitOfWork, MyUnitOfWork])
@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        (providers.Singleton, "is given by a Singleton, which has one object for all dispatches"),
        (providers.ThreadLocalSingleton, "is given by a ThreadLocalSingleton, which has one object for all dispatches"),
        (providers.Resource, "is given by a Resource, which has one object for all dispatches"),
        (providers.Factory, "is given by a Factory, which makes a new object for each of its users"),
    ],
)
def test_a_unit_of_work_that_is_not_scoped_is_found(cls, kind, reason):
    container = container_of(database=providers.Singleton(InMemoryDatabase), ask=providers.Factory(AskHandler))
    container.unit_of_work = kind(cls, container.database)
    text = only(container)

    assert text.startswith(f"container.unit_of_work ({cls.__name__}): {reason}, but each scope needs one ")
    assert text.endswith(f"Write `Scoped({cls.__name__}, ...)`.")


@pytest.mark.parametrize("kind", [providers.Singleton, providers.Factory])
def test_a_broker_of_events_that_is_not_scoped_is_found(kind):
    container = container_of(database=providers.Singleton(InMemoryDatabase))
    container.unit_of_work = Scoped(InMemoryUnitOfWork, container.database)
    container.distributed_events = kind(DistributedEventBroker, container.unit_of_work)

    assert "Write `Scoped(DistributedEventBroker, ...)`." in problems(container)[-1]


def test_a_unit_of_work_inside_another_provider_is_found():
    container = container_of(database=providers.Singleton(InMemoryDatabase))
    container.distributed_events = Scoped(
        DistributedEventBroker, providers.Factory(InMemoryUnitOfWork, container.database)
    )

    assert only(container).startswith("container.distributed_events (InMemoryUnitOfWork): is given by a Factory")


def test_a_scoped_unit_of_work_and_its_override_are_no_fault():
    def made(unit_of_work: Any) -> InMemoryUnitOfWork:
        return unit_of_work

    container = container_of(database=providers.Singleton(InMemoryDatabase))
    container.unit_of_work = Scoped(InMemoryUnitOfWork, container.database)
    container.same = providers.Callable(made, container.unit_of_work)
    container.unit_of_work.override(providers.Factory(MyUnitOfWork, container.database))

    assert validate(container) is None


# Signatures of methods.


class WithoutMessage(RequestHandler[Ask, int]):
    async def handle(self):
        return 1


class WithTwo(RequestHandler[Ask, int]):
    async def handle(self, message: Ask, session: Any):
        return 1


class ByKeyword(RequestHandler[Ask, int]):
    async def handle(self, *, message: Ask):
        return 1


class StaticWithSelf(RequestHandler[Ask, int]):
    @staticmethod
    async def handle(self, message):  # noqa: PLW0211
        return 1


class ClassWithoutMessage(RequestHandler[Ask, int]):
    @classmethod
    async def handle(cls):
        return 1


class Static(RequestHandler[Ask, int]):
    @staticmethod
    async def handle(message):
        return 1


class OfTheClass(RequestHandler[Ask, int]):
    @classmethod
    async def handle(cls, message):
        return 1


class WithMore(RequestHandler[Ask, int]):
    async def handle(self, message, session=None, *rest, flag=False, **more):
        return 1


class SaidHandler(NotificationHandler[Said]):
    async def handle(self):
        pass


class Watching(StreamRequestHandler[Watch, int]):
    async def handle(self) -> AsyncIterator[int]:
        yield 1


@pytest.mark.parametrize(
    ("cls", "shown", "given", "remedy"),
    [
        (WithoutMessage, "handle(self)", "request", "handle(self, request)"),
        (WithTwo, "handle(self, message, session)", "request", "handle(self, request)"),
        (ByKeyword, "handle(self, *, message)", "request", "handle(self, request)"),
        (StaticWithSelf, "handle(self, message)", "request", "handle(self, request)"),
        (ClassWithoutMessage, "handle()", "request", "handle(self, request)"),
        (SaidHandler, "handle(self)", "notification", "handle(self, notification)"),
        (Watching, "handle(self)", "request", "handle(self, request)"),
    ],
    ids=lambda value: getattr(value, "__name__", None),
)
def test_a_handler_that_cannot_be_called_with_its_message_is_found(cls, shown, given, remedy):
    assert only(container_of(faulty=providers.Factory(cls))) == (
        f"container.faulty ({cls.__name__}): has a `{shown}`, which cannot be called with {given}. Write `{remedy}`."
    )


@pytest.mark.parametrize("cls", [Static, OfTheClass, WithMore])
async def test_a_handler_that_can_be_called_with_its_message_is_no_fault(cls):
    async with lifespan(container_of(ask=providers.Factory(cls))) as container:
        assert await container.mediator().send(Ask()) == 1


class WithoutCallNext(PipelineBehavior[Any, Any]):
    async def handle(self, message):
        return None


class WithTooMuch(PipelineBehavior[Any, Any]):
    async def handle(self, message, call_next, session):
        return await call_next()


class WithoutHandler(NotificationPipelineBehavior[Said]):
    async def handle(self, notification, call_next):
        await call_next()


class StreamWithoutNext(StreamPipelineBehavior[Any, Any]):
    async def handle(self, request):
        yield 1


@pytest.mark.parametrize(
    ("cls", "shown", "given", "remedy"),
    [
        (WithoutCallNext, "handle(self, message)", "message and call_next", "handle(self, message, call_next)"),
        (WithTooMuch, "handle(self, message, call_next, session)", "message and call_next",
         "handle(self, message, call_next)"),
        (WithoutHandler, "handle(self, notification, call_next)", "notification, handler and call_next",
         "handle(self, notification, handler, call_next)"),
        (StreamWithoutNext, "handle(self, request)", "request and call_next", "handle(self, request, call_next)"),
    ],
    ids=lambda value: getattr(value, "__name__", None),
)  # fmt: skip
def test_a_behavior_that_cannot_be_called_is_found(cls, shown, given, remedy):
    assert only(container_of([providers.Factory(cls)])) == (
        f"container: behavior 1 ({cls.__name__}): has a `{shown}`, which cannot be called with {given}. Write `{remedy}`."
    )


class Checking(Validator[Ask]):
    async def validate(self):
        return []


def test_a_collaborator_that_cannot_be_called_is_found():
    found = problems(container_of(checking=providers.Factory(Checking)))

    assert "has a `validate(self)`, which cannot be called with message. Write `validate(self, message)`." in found[0]


def test_a_handler_with_yield_is_a_fault_because_it_returns_no_response():
    class Yielding(RequestHandler[Ask, int]):
        async def handle(self, _):
            yield 1

    assert "has a `handle` with `yield`, which yields items instead of a response." in (
        only(container_of(faulty=providers.Factory(Yielding)))
    )


def test_a_function_as_a_handler_is_no_fault():
    @as_handler
    async def answer(message: Ask) -> int:
        return 1

    assert validate(container_of(answer=providers.Factory(answer))) is None


# The list of behaviors.


class Around(PipelineBehavior[Any, Any]):
    def __init__(self, seconds: float = 1.0) -> None:
        self.seconds = seconds

    async def handle(self, message, call_next):
        return await call_next()


class Both(PipelineBehavior[Any, Any], StreamPipelineBehavior[Any, Any]):
    async def handle(self, message, call_next):
        return await call_next()


def test_a_class_that_is_a_behavior_of_two_kinds_is_found():
    assert only(container_of([providers.Factory(Both)])) == (
        "container: behavior 1 (Both): is a PipelineBehavior and a StreamPipelineBehavior, but `handle` is called in a "
        "different way for each kind. Write a class for each kind, and put all of them in the list."
    )


def test_a_behavior_listed_three_times_is_found():
    container = containers.DynamicContainer()
    container.around = providers.Factory(Around)
    container.mediator = MediatorProvider(behaviors=[container.around] * 3)

    assert only(container) == (
        "container.around (Around): stands in the list of behaviors 3 times, and would run 3 times around each message."
        " Remove all but one, or give the providers different arguments."
    )


def test_two_providers_of_the_same_behavior_are_found_and_different_ones_are_not():
    container = containers.DynamicContainer()
    container.one = providers.Factory(Around, seconds=1.0)
    container.two = providers.Factory(Around, seconds=1.0)
    container.three = providers.Factory(Around, seconds=3.0)
    container.mediator = MediatorProvider(behaviors=[container.one, container.three])
    assert validate(container) is None

    container = containers.DynamicContainer()
    container.one = providers.Factory(Around, seconds=1.0)
    container.two = providers.Factory(Around, seconds=1.0)
    container.mediator = MediatorProvider(behaviors=[container.one, container.two])
    assert "stands in the list of behaviors twice (container.one, container.two)" in only(container)


# Messages.


@dataclass(frozen=True, slots=True)
class CommandAndQuery(Command[int], Query[int]):
    pass


async def test_a_message_that_is_both_command_and_query_is_found_and_refused():
    class Handler(RequestHandler[CommandAndQuery, int]):
        async def handle(self, _):
            return 1

    text = "CommandAndQuery is a Command and a Query, which are dispatched in different ways."
    assert text in only(container_of(handler=providers.Factory(Handler)))
    assert text in only(container_of(), requests=[CommandAndQuery])
    with pytest.raises(DeclarationError, match="a Command and a Query"):
        await Mediator(Registry()).send(CommandAndQuery())


@pytest.mark.parametrize(
    ("given", "text"),
    [
        (Said, (f"({__name__}.Said): is named in `requests`, but is a notification, "
               "which may have any number of handlers and needs none. Leave it out.")),
        (Happened, ("Happened): is named in `requests`, but is a distributed event, which other applications may handle and "
                   "this one need not. Leave it out.")),
        (AskHandler, ("AskHandler): is named in `requests`, but is no request. Derive it from Command, Query or "
                     "StreamRequest, or name the request that the class handles.")),
        (Ask(), "(Ask): is an object, but `requests` has to name classes. Write `requests=[Ask]`."),
        ("Ask", "(str): is an object, but `requests` has to name classes."),
    ],
    ids=["notification", "event", "handler", "object", "text"],
)  # fmt: skip
def test_a_listed_object_that_is_not_a_request_is_reported(given, text):
    assert text in only(container_of(), requests=[given])


def test_a_single_request_may_be_named_without_a_list():
    assert "Watch has no handler" in only(container_of(), requests=Watch)
    assert validate(container_of(ask=providers.Factory(AskHandler)), requests=Ask) is None


# Folders without __init__.py.


HANDLER = """
from mediator import Query, RequestHandler
class {0}(Query[int]): ...
class {0}Handler(RequestHandler[{0}, int]):
    async def handle(self, _): return 1
"""


@pytest.fixture
def package(tmp_path, monkeypatch):
    """Return a package with handlers and a subfolder without `__init__.py` that has more handlers."""
    root = tmp_path / "unworkable_shop"
    for folder in (root, root / "students", root / "billing", root / "assets" / "texts", root / "not-a-name"):
        folder.mkdir(parents=True)
    (root / "__init__.py").touch()
    (root / "handlers.py").write_text(HANDLER.format("First"))
    (root / "students" / "__init__.py").touch()
    (root / "students" / "enroll.py").write_text(HANDLER.format("Second"))
    (root / "billing" / "invoices").mkdir()
    (root / "billing" / "invoices" / "pay.py").write_text(HANDLER.format("Third"))
    (root / "not-a-name" / "script.py").write_text("raise SystemExit")
    (root / "assets" / "texts" / "some.txt").touch()
    monkeypatch.syspath_prepend(tmp_path)
    yield root
    for name in [each for each in sys.modules if each.startswith("unworkable_shop")]:
        del sys.modules[name]


def scanning(*packages, **options):
    return container_of(handlers=HandlerScan(*packages, **options))


@pytest.mark.usefixtures("package")
def test_a_folder_without_init_whose_handlers_a_scan_would_skip_is_found():
    assert only(scanning("unworkable_shop")) == (
        "container.handlers (unworkable_shop.billing): is a folder with modules and without `__init__.py`, so nothing in it "
        "would be found. Add the file, name the folder too "
        '(`HandlerScan("unworkable_shop", "unworkable_shop.billing")`), or exclude it.'
    )


@pytest.mark.usefixtures("package")
def test_a_folder_without_init_may_be_excluded_or_named():
    excluding = scanning("unworkable_shop", exclude=["unworkable_shop.billing"])
    assert validate(excluding) is None
    naming = scanning("unworkable_shop", "unworkable_shop.billing.invoices")
    assert validate(naming) is None
    assert [cls.__name__ for cls in naming.handlers()] == ["FirstHandler", "SecondHandler", "ThirdHandler"]


def test_a_package_without_init_is_scanned_and_its_subfolders_without_init_are_reported(package):
    (package / "__init__.py").unlink()
    importlib.invalidate_caches()

    assert "(unworkable_shop.billing): is a folder with modules and without" in only(scanning("unworkable_shop"))
