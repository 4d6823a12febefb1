"""Scans of packages find handlers, and providers fill the parameters of their constructors."""

import asyncio
import builtins
import importlib
import itertools
import sys
import textwrap
from collections.abc import AsyncIterator
from typing import Any

import pytest
from dependency_injector import containers, providers

from mediator import Mediator, RequestHandler
from mediator.dependency_injector import HandlerScan, MediatorProvider, Scoped, lifespan, override, validate
from mediator.dependency_injector.graph import Graph
from mediator.errors import ContainerError, ContainerValidationError, NotFoundError, ValidationFailedError

from .school import Register, students
from .school.container import School
from .school.courses import CourseOpened
from .school.students import CountStudents, Enroll, EnrollHandler, ListStudents, Welcome

SCHOOL = "tests.adapters.dependency_injector.school"
NUMBERS = itertools.count()


@pytest.fixture
def module(tmp_path, monkeypatch):
    """Return a function that writes a new package and returns its name: `module(name=source, ...)`."""

    def make(**sources: str) -> str:
        name = f"scanned_{next(NUMBERS)}"
        for path, source in {"__init__": "", **sources}.items():
            file = tmp_path / name / f"{path.replace('__sub__', '/')}.py"
            file.parent.mkdir(exist_ok=True, parents=True)
            file.write_text(PRELUDE + textwrap.dedent(source), "utf-8")
        return name

    monkeypatch.syspath_prepend(tmp_path)
    yield make
    for name in [each for each in sys.modules if each.startswith("scanned_")]:
        del sys.modules[name]


PRELUDE = """\
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, Generic, NewType, Optional, Protocol, TypeVar
from mediator import *
"""


def problems(container: Any, **options: Any) -> list[str]:
    with pytest.raises(ContainerValidationError) as caught:
        validate(container, **options)
    return [str(problem) for problem in caught.value.problems]


def scanning(*packages: str, **parts: Any) -> Any:
    """Return a container with a mediator, these providers, and a scan."""
    container = containers.DynamicContainer()
    container.mediator = MediatorProvider()
    for name, provider in parts.items():
        setattr(container, name, provider)
    container.handlers = HandlerScan(*packages)
    return container


# Found handlers.


async def test_handlers_of_every_kind_are_found_in_packages_and_their_subpackages():
    async with lifespan(School(), packages=[SCHOOL]) as container:
        mediator, lines = container.mediator(), container.register().lines
        assert await mediator.send(Enroll("Ada")) == "Ada"
        assert lines == ["Ada", "Welcome, Ada", "Congratulations, Ada"]
        await mediator.publish(CourseOpened())
        assert await mediator.send(CountStudents()) == 4
        async with mediator.stream(ListStudents()) as items:
            assert [item async for item in items] == lines


async def test_a_scan_finds_the_collaborators_of_behaviors():
    async with lifespan(School()) as container:
        with pytest.raises(ValidationFailedError, match="is missing"):
            await container.mediator().send(Enroll(""))
        assert container.register().lines == []


async def test_functions_are_registered_by_decorators():
    async with lifespan(School()) as container:
        assert await container.mediator().send(CountStudents()) == 0
        chain = container.mediator().describe(CountStudents).split()
        assert chain[-2:] == ["count_students", "container.handlers[count_students]"]
        assert await container.handlers[students.count_students]().handle(CountStudents()) == 0


def test_a_scan_yields_its_classes_by_module_in_the_order_of_their_definition():
    every = HandlerScan(f"{SCHOOL}.students", SCHOOL)
    container = containers.DynamicContainer()
    container.every = every
    names = [cls.__qualname__ for cls in every()]
    in_students = ["NameIsThere", "EnrollHandler", "Welcome", "count_students", "congratulate", "ListHandler"]
    assert names == [*in_students, "Archive.Handler", "Announce"]
    assert [cls.__qualname__ for cls in School().handlers()] == ["Announce", *in_students]


def test_the_order_of_imports_does_not_matter(module):
    source = "class Handler{0}(NotificationHandler[Notification]):\n    async def handle(self, _): ...\n"
    name = module(
        b=f"from . import c\n{source.format('B')}",
        c=source.format("C"),
        a__sub____init__="",
        a__sub__z=source.format("Z"),
    )
    assert [cls.__name__ for cls in scanning(name).handlers()] == ["HandlerZ", "HandlerB", "HandlerC"]


def test_classes_of_one_name_are_labelled_with_their_modules(module):
    source = "class Handler(NotificationHandler[Notification]):\n    async def handle(self, _): ...\n"
    name = module(a=source, b=source)
    labels = [label for label in Graph(scanning(name)).labels.values() if "[" in label]
    assert labels == [f"container.handlers[{name}.a.Handler]", f"container.handlers[{name}.b.Handler]"]


def test_base_classes_and_generic_classes_are_not_registered(module):
    name = module(
        handlers="""
        M = TypeVar("M", bound=Command[Any])
        class Go(Command[None]): ...
        class Generic_(RequestHandler[M, None]):
            async def handle(self, _): ...
        class Template(RequestHandler[Go, None]):
            async def handle(self, _): ...
            @abstractmethod
            def step(self): ...
        class Unfinished(RequestHandler[Go, None], ABC): ...
        class Middle(RequestHandler[Go, None]): ...
        class Handler(Middle):
            async def handle(self, _): ...
        class Check(Validator[Command[Any]], ABC): ...
        """
    )
    assert [cls.__name__ for cls in scanning(name).handlers()] == ["Handler"]


def test_a_class_that_forgot_an_abstract_method_is_a_fault(module):
    name = module(
        handlers="""
        class Go(Command[None]): ...
        class Handler(RequestHandler[Go, None]):
            async def hendle(self, _): ...
        """
    )
    assert problems(scanning(name)) == [
        "container.handlers[Handler] (Handler): is abstract: it does not implement handle."
    ]


def test_scanned_modules_are_not_imported_before_the_container_is_validated(module):
    name = module(handlers="")
    container = scanning(name)
    assert name not in sys.modules
    with pytest.raises(ContainerValidationError):
        validate(container)
    assert name in sys.modules


def test_excluded_modules_are_not_imported_and_excluded_classes_are_not_found(module):
    name = module(
        good="class Handler(NotificationHandler[Notification]):\n    async def handle(self, _): ...\n"
        "class Other(Handler): ...\nclass Third(Handler): ...\n",
        bad="raise RuntimeError",
    )
    good = importlib.import_module(f"{name}.good")
    container = containers.DynamicContainer()
    container.handlers = HandlerScan(
        name, exclude=[f"{name}.bad", f"{name}.bad.too", good.Handler, f"{name}.good.Third"]
    )
    assert container.handlers() == (good.Other,)
    assert f"{name}.bad" not in sys.modules
    assert list(container.handlers.problems("container.handlers")) == []


# Parameters of constructors.

ENGINE = """
class Engine: ...
class Fast(Engine): ...
class Go(Command[Any]): ...
"""


def handler(parameters: str, *, before: str = "") -> str:
    """Return the source of a handler that returns its arguments."""
    return f"""{ENGINE}
{before}
class Handler(RequestHandler[Go, Any]):
    def __init__(self, {parameters}):
        self.given = {{name: value for name, value in locals().items() if name not in ("self", "__class__")}}
    async def handle(self, _):
        return self.given
"""


@pytest.mark.parametrize(
    ("parameters", "given"),
    [
        ("engine: Engine", {"engine": "Fast"}),
        ("engine: 'Engine'", {"engine": "Fast"}),
        ("engine: Engine | None", {"engine": "Fast"}),
        ("engine: Optional[Engine] = None", {"engine": "Fast"}),
        ("engine: Engine, /, *, mediator: Sender", {"engine": "Fast", "mediator": "Mediator"}),
        ("publisher: Publisher, mediator: Mediator", {"publisher": "Mediator", "mediator": "Mediator"}),
        ("name: str = 'x', number=3", {"name": "str", "number": "int"}),
        ("name: str = 'x', engine: Engine = None, /", {"name": "str", "engine": "Fast"}),
        ("broker: EventConsumer | None = None, *args: Engine, **kwargs: Engine", {"broker": "NoneType"}),
    ],
)
async def test_a_parameter_is_filled_by_the_provider_of_its_class_or_keeps_its_default(module, parameters, given):
    name = module(handlers=handler(parameters))
    classes: Any = importlib.import_module(f"{name}.handlers")
    container = scanning(name, engine=providers.Factory(classes.Fast), text=providers.Object("y"))
    async with lifespan(container):
        answer = await container.mediator().send(classes.Go())
        assert {key: type(value).__name__ for key, value in answer.items() if value not in ((), {})} == given


async def test_a_parameter_of_a_generic_class_is_filled_by_its_type_arguments(module):
    name = module(
        handlers=handler(
            "students: Repository[int], courses: Repository[str]",
            before="T = TypeVar('T')\nclass Repository(Generic[T]): ...\nclass Courses(Repository[str]): ...\n",
        )
    )
    classes: Any = importlib.import_module(f"{name}.handlers")
    container = scanning(
        name, students=providers.Factory(classes.Repository[int]), courses=providers.Factory(classes.Courses)
    )
    async with lifespan(container):
        answer = await container.mediator().send(classes.Go())
        assert [type(value) for value in answer.values()] == [classes.Repository, classes.Courses]


async def test_a_provider_with_several_names_counts_once(module):
    name = module(handlers=handler("engine: Engine"))
    classes: Any = importlib.import_module(f"{name}.handlers")

    class Billing(containers.DeclarativeContainer):
        engine = providers.Dependency(instance_of=classes.Engine)

    engine = providers.Singleton(classes.Engine)
    container = scanning(name, engine=engine, same=engine, billing=providers.Container(Billing, engine=engine))
    async with lifespan(container):
        assert await container.mediator().send(classes.Go()) == {"engine": container.engine()}


async def open_register() -> AsyncIterator[Register]:
    yield Register(["opened"])


async def make_register() -> Register:
    await asyncio.sleep(0)
    return Register(["made"])


@pytest.mark.parametrize("mode", ["resource", "coroutine", "scoped"])
async def test_dependencies_may_be_asynchronous_or_scoped(mode):
    container = School()
    container.register = {
        "resource": providers.Resource(open_register),
        "coroutine": providers.Coroutine(make_register),
        "scoped": Scoped(Register),
    }[mode]
    async with lifespan(container):
        counted = {"resource": 1, "coroutine": 1, "scoped": 0}
        assert await container.mediator().send(CountStudents()) == counted[mode]


# Parameters without a provider.


@pytest.mark.parametrize(
    ("parameter", "reason"),
    [
        ("it: Engine", "needs one Engine as 'it', but 2 providers give one: container.fast (Fast), container.in.slow (Engine)"),  # noqa: E501
        ("it: Engine = 1", "needs one Engine as 'it', but 2 providers give one: container.fast (Fast), container.in.slow (Engine)"),  # noqa: E501
        ("it: OutboxRelay", "needs a OutboxRelay as 'it', which no named provider gives"),
        ("it: Port", "needs a Port as 'it', which no named provider gives (only a class that derives from the protocol counts)"),  # noqa: E501
        ("it: str", "needs 'it', but no provider can be chosen: the parameter has the annotation str"),
        ("it", "needs 'it', but no provider can be chosen: the parameter has no annotation"),
        ("it: 'No' = 1", "needs 'it', but the annotations of the constructor cannot be read: they may use a name that the module of the class does not define"),  # noqa: E501
    ],
)  # fmt: skip
def test_a_parameter_that_cannot_be_filled_is_one_problem_with_the_candidates_and_the_remedy(module, parameter, reason):
    name = module(handlers=handler(parameter, before="class Port(Protocol): ..."))
    classes: Any = importlib.import_module(f"{name}.handlers")
    nested = providers.Container(containers.DynamicContainer)
    nested.container.slow = providers.Factory(classes.Engine)
    container = scanning(name, text=providers.Object("y"), fast=providers.Factory(classes.Fast), **{"in": nested})
    declare = "Add a provider, or declare" if "no named provider" in reason else "Declare"
    assert problems(container, requests=[classes.Go]) == [
        f"container.handlers[Handler] (Handler): {reason}. {declare} the class itself: `providers.Factory(Handler, it=...)`."
    ]
    with pytest.raises(ContainerValidationError, match=r"1 problem in the container"):
        container.mediator()

    container.handler = providers.Factory(classes.Handler, None)
    validate(container, requests=[classes.Go])


def test_validation_checks_scanned_handlers_like_declared_ones(module):
    name = module(
        handlers=handler("engine: Engine")
        + """
class Synchronous(NotificationHandler[Notification]):
    def handle(self, _): ...
class Count(Query[int]): ...
class Wrong(RequestHandler[Count, str]):
    async def handle(self, _): ...
class Twice(Wrong): ...
class Silent(NotificationHandler):
    async def handle(self, _): ...
"""
    )
    classes: Any = importlib.import_module(f"{name}.handlers")

    class Holder:
        def __init__(self, unit: Any) -> None:
            self.unit = unit

    unit = Scoped(Register)
    container = scanning(name, engine=providers.Singleton(classes.Fast, providers.Factory(Holder, unit)))
    found = "\n".join(problems(container))
    for text in [
        "container.handlers[Synchronous] (Synchronous): has a `handle` that is not async",
        "container.handlers[Wrong] (Wrong): returns str, but Count is a request for int.",
        "container.handlers[Twice] (Twice): handles Count, which has 2 handlers: container.handlers[Wrong], container.hand",
        "container.handlers[Silent] (Silent): does not say what it handles.",
        "container.engine (Fast): is a Singleton, which lives as long as the application, and holds container.engine",
    ]:
        assert text in found


def test_a_circular_dependency_through_a_scanned_handler_is_reported(module):
    name = module(handlers=handler("engine: Engine"))
    classes: Any = importlib.import_module(f"{name}.handlers")
    container = scanning(name, engine=providers.Factory(classes.Fast))
    container.engine.add_kwargs(handler=container.handlers[classes.Handler])
    circle = "container.engine -> container.handlers[Handler] -> container.engine"
    assert circle in problems(container)[-1]


def test_modules_that_cannot_be_imported_are_named_and_the_others_are_checked(module):
    name = module(
        a="import nowhere_to_be_found",
        b="def fail(): raise RuntimeError('no settings')\nfail()",
        c="import sys; sys.exit(3)",
        d="class Handler(NotificationHandler): ...",
        e="x = (",
    )
    found = problems(scanning(name, "scanned_absent"))
    starts = [
        f"container.handlers ({name}.a): cannot be imported: ModuleNotFoundError: No module named 'nowhere_to_be_found' (",
        f"container.handlers ({name}.b): cannot be imported: RuntimeError: no settings (",
        f"container.handlers ({name}.c): cannot be imported: SystemExit: 3 (",
        f"container.handlers ({name}.e): cannot be imported: SyntaxError: ",
        "container.handlers (scanned_absent): cannot be imported: ModuleNotFoundError: No module named 'scanned_absent'.",
        "container.handlers[Handler] (Handler): does not say what it handles.",
    ]
    assert [each[: len(start)] for each, start in zip(found, starts, strict=False)] == starts
    assert f"{name}/b.py, line 5)." in found[1]


def test_a_scan_without_packages_or_handlers_and_an_exclusion_that_matches_nothing_are_faults(module):
    name = module(handlers="")
    assert problems(scanning(name, f"{name}.handlers")) == [
        f"container.handlers ({name}): contains no handler, and no collaborator of a behavior.",
        f"container.handlers ({name}.handlers): contains no handler, and no collaborator of a behavior.",
    ]
    assert problems(scanning()) == [
        'container.handlers (HandlerScan): names no package. Name at least one: `HandlerScan("shop.students")`.'
    ]
    container = School()
    container.others = HandlerScan(f"{SCHOOL}.courses", exclude="absent")
    assert problems(container)[0] == (
        "container.others (absent): is named in `exclude`, but there is no such module or class."
    )


def test_a_module_that_uses_the_container_while_it_is_scanned_is_an_error(module):
    name = module(handlers="import builtins\nmediator = builtins.scanned_container.mediator()\n")
    container = scanning(name)
    builtins.scanned_container = container
    try:
        (found,) = problems(container)
    finally:
        del builtins.scanned_container
    assert "A scanned module asks for the container's mediator while the scan imports the module" in found


# Classes with a provider in the container.


class Wrapped(RequestHandler[Enroll, str]):
    def __init__(self, inner: RequestHandler[Enroll, str]) -> None:
        self._inner = inner

    async def handle(self, command: Enroll) -> str:
        return f"{await self._inner.handle(command)}!"


class Quiet(Mediator):
    def __init__(self) -> None: ...

    async def publish(self, *_args: Any, **_options: Any) -> None: ...


@pytest.mark.parametrize("wrapped", [False, True])
async def test_a_class_with_a_provider_in_the_container_is_not_scanned(wrapped):
    class Explicit(School):
        own = providers.Factory(EnrollHandler, School.register, providers.Factory(Quiet))
        enroll = providers.Factory(Wrapped, own) if wrapped else own

    if wrapped:
        del Explicit.own
    async with lifespan(Explicit()) as container:
        assert await container.mediator().send(Enroll("Ada")) == ("Ada!" if wrapped else "Ada")
        assert container.register().lines == ["Ada"]
        assert EnrollHandler not in container.handlers()


async def test_a_class_is_registered_in_the_nested_container_or_in_the_first_scan():
    class Courses(containers.DeclarativeContainer):
        register = providers.Dependency(instance_of=Register)
        handlers = HandlerScan(f"{SCHOOL}.courses")

    class Several(School):
        more = HandlerScan(SCHOOL)
        courses = providers.Container(Courses, register=School.register)

    assert {label for label in Graph(Several()).labels.values() if "[" in label} == {
        "container.courses.handlers[Announce]",
        "container.more[Archive.Handler]",
        *(
            f"container.handlers[{name}]"
            for name in ["NameIsThere", "EnrollHandler", "Welcome", "count_students", "congratulate", "ListHandler"]
        ),
    }


async def test_each_container_instance_has_its_own_providers_even_in_derived_containers():
    class Derived(School):
        pass

    one, other = Derived(), School()
    assert one.handlers[Welcome] is one.handlers[Welcome] is not other.handlers[Welcome]
    async with lifespan(one), lifespan(other):
        await one.mediator().send(Enroll("Ada"))
        assert len(one.register().lines) == 3
        assert other.register().lines == []


async def test_a_scanned_handler_gets_the_mediator_of_its_own_container():
    class Courses(containers.DeclarativeContainer):
        mediator = MediatorProvider()

    class Outer(School):
        courses = providers.Container(Courses)

    async with lifespan(Outer()) as container:
        await container.mediator().send(Enroll("Ada"))
        assert "Welcome, Ada" in container.register().lines


# Overrides.


async def test_overridden_dependencies_take_effect_at_once():
    async with lifespan(School()) as container:
        fake = Register(["fake"])
        with container.register.override(fake):
            assert await container.mediator().send(CountStudents()) == 1
        assert await container.mediator().send(CountStudents()) == 0


async def test_a_scanned_handler_is_overridden_by_its_class_or_by_name():
    class Fake(RequestHandler[Enroll, str]):
        async def handle(self, command: Enroll) -> str:
            return f"fake {command.name}"

    async with lifespan(School()) as container:
        mediator = container.mediator()
        with container.handlers[EnrollHandler].override(providers.Factory(Fake)):
            assert await mediator.send(Enroll("Ada")) == "fake Ada"
        with override(container, handlers__EnrollHandler=Fake()):
            assert await mediator.send(Enroll("Ada")) == "fake Ada"
            container.late = providers.Object(1)
            assert await container.mediator().send(Enroll("Ada")) == "fake Ada"
        assert await mediator.send(Enroll("Ada")) == "Ada"


def test_unknown_classes_and_overrides_of_a_whole_scan_are_refused():
    container = School()
    with pytest.raises(NotFoundError, match="Did you mean 'EnrollHandler'"):
        container.handlers[type("EnrolHandler", (), {})]
    with pytest.raises(NotFoundError, match="Did you mean 'handlers__EnrollHandler'"):
        override(container, handlers__EnrolHandler=None).__enter__()
    with pytest.raises(ContainerError, match="cannot be replaced as a whole"):
        container.handlers.override(providers.Object(1))
    with pytest.raises(ContainerError, match="container class School"):
        School.handlers()


async def test_a_provider_added_later_fills_parameters_of_scanned_handlers(module):
    name = module(handlers=handler("engine: Engine = None"))
    classes: Any = importlib.import_module(f"{name}.handlers")
    async with lifespan(scanning(name)) as container:
        assert await container.mediator().send(classes.Go()) == {"engine": None}
        container.engine = providers.Factory(classes.Fast)
        answer = await container.mediator().send(classes.Go())
        assert type(answer["engine"]) is classes.Fast
        container.handler = providers.Factory(classes.Handler, "explicit")
        assert await container.mediator().send(classes.Go()) == {"engine": "explicit"}
