import functools
import subprocess
import sys
import textwrap
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from typing import Any, NewType, Protocol, TypeVar

import pytest
from dependency_injector import containers, providers

from mediator.dependency_injector import MediatorProvider, Scoped, lifespan, override, validate
from mediator.errors import ContainerError, ContainerValidationError
from mediator.handlers import NotificationHandler, RequestHandler
from mediator.mediator import Mediator
from mediator.messages import Command, Query, Request
from mediator.pipeline import PipelineBehavior
from tests.adapters.dependency_injector.shop import (
    CountOrders,
    CountOrdersHandler,
    OrderId,
    OrderPlaced,
    Orders,
    PlaceOrder,
    PlaceOrderHandler,
    UnitOfWork,
)


def container_of(**named):
    made = containers.DynamicContainer()
    made.mediator = MediatorProvider()
    for name, provider in named.items():
        setattr(made, name, provider)
    return made


def problems_of(container, **options):
    with pytest.raises(ContainerValidationError) as caught:
        validate(container, **options)
    return caught.value.problems


def only_problem(container, **options):
    (problem,) = problems_of(container, **options)
    return problem


class Session:
    pass


class Repository:
    def __init__(self, session: Session) -> None:
        self.session = session


class Counting(RequestHandler[CountOrders, int]):
    def __init__(self, repository: Repository) -> None:
        self.repository = repository

    async def handle(self, _):
        return 1


def test_a_valid_container_passes_without_constructing_its_objects():
    def never(*_: Any) -> Any:
        raise AssertionError("made")

    class App(containers.DeclarativeContainer):
        config = providers.Configuration(strict=True)
        session = providers.Resource(never, config.url)
        unit_of_work = Scoped(UnitOfWork, session)
        repository = providers.Singleton(never, session)
        orders = providers.Factory(Orders, unit_of_work)
        mediator = MediatorProvider()
        place_order = providers.Factory(PlaceOrderHandler, orders, mediator)
        count_orders = providers.Factory(Counting, repository)

    assert validate(App(), requests=[PlaceOrder, CountOrders]) is None


def test_every_fault_is_reported_at_once_with_its_label_and_class():
    class App(containers.DeclarativeContainer):
        mediator = MediatorProvider()
        first = providers.Factory(CountOrdersHandler)
        second = providers.Factory(CountOrdersHandler)
        repository = providers.Factory(Repository)
        counting = providers.Factory(Counting, repository)

    with pytest.raises(ContainerValidationError) as caught:
        validate(App(), requests=[PlaceOrder])
    assert [(problem.label, problem.subject) for problem in caught.value.problems] == [
        ("container.counting", "Counting"),
        ("container.mediator", f"{PlaceOrder.__module__}.PlaceOrder"),
        ("container.repository", "Repository"),
    ]
    text = str(caught.value)
    assert text.startswith(
        "3 problems in the container:\n  1. container.counting (Counting): handles CountOrders, which has 3"
    )
    assert "container.first, container.second, container.counting" in text
    assert "missing a required argument: 'session'" in text


def test_a_container_class_is_refused():
    with pytest.raises(ContainerError, match="container class App"):
        validate(type("App", (containers.DeclarativeContainer,), {}))


def test_a_container_without_a_mediator_is_checked():
    container = containers.DynamicContainer()
    container.one = providers.Factory(CountOrdersHandler)
    container.two = providers.Factory(CountOrdersHandler)
    assert "has 2 handlers" in only_problem(container).text


# Requests without handlers.


def test_a_request_without_a_handler_names_the_nearest():
    class CountOrder(Query[int]):
        pass

    container = container_of(count_orders=providers.Factory(CountOrdersHandler))
    problem = only_problem(container, requests=[CountOrder])
    assert "CountOrder has no handler. Did you mean CountOrders?" in problem.text


def module_of(name, source):
    module = type(sys)(name)
    sys.modules[name] = module
    exec(textwrap.dedent(source), module.__dict__)
    return module


@pytest.fixture
def billing():
    yield module_of(
        "billing_requests",
        """
        from dataclasses import dataclass
        from typing import Any
        from mediator.messages import Command

        class BillingCommand(Command[Any]):
            pass

        @dataclass(frozen=True, slots=True)
        class Pay(BillingCommand):
            amount: int

        @dataclass(frozen=True, slots=True)
        class Refund(BillingCommand):
            amount: int

        def local():
            class Hidden(BillingCommand):
                pass
            return Hidden

        hidden = local()
        """,
    )
    del sys.modules["billing_requests"]


def test_requests_of_a_package_need_handlers_but_their_bases_ghosts_and_local_classes_do_not(billing):
    class PayHandler(RequestHandler[billing.Pay, Any]):
        async def handle(self, command):
            pass

    container = container_of(pay=providers.Factory(PayHandler))
    problem = only_problem(container, packages=["billing_requests"])
    assert (problem.label, problem.subject) == ("container.mediator", "billing_requests.Refund")
    validate(container, packages=["billing", "billing_requests.more"])


# Declarations of handlers.


T = TypeVar("T", bound=Request[Any])


def vague_classes():
    class Forward(RequestHandler["CountOrders", int]):
        async def handle(self, _):
            return 1

    class Variable(RequestHandler[T, int]):
        async def handle(self, _):
            return 1

    class Missing(RequestHandler):
        async def handle(self, _):
            return 1

    class Anything(NotificationHandler[Any]):
        async def handle(self, _):
            pass

    return Forward, Variable, Missing, Anything, Variable[CountOrders]


@pytest.mark.parametrize("cls", vague_classes(), ids=str)
def test_a_handler_without_a_message_type_is_a_fault(cls):
    problem = only_problem(container_of(vague=providers.Factory(cls)))
    assert problem.label == "container.vague"
    assert "does not say what it handles" in problem.text


def test_a_handler_of_the_wrong_kind_of_message_is_a_fault():
    class Wrong(NotificationHandler[CountOrders]):
        async def handle(self, _):
            pass

    assert "does not derive from Notification" in only_problem(container_of(wrong=providers.Factory(Wrong))).text


def test_a_handler_or_behavior_that_is_not_async_is_a_fault():
    class Sync(RequestHandler[CountOrders, int]):
        def handle(self, _):
            return 1

    class SyncBehavior(PipelineBehavior[Any, Any]):
        def handle(self, message, call_next):
            return call_next()

    container = container_of(sync=providers.Factory(Sync), behavior=providers.Factory(SyncBehavior))
    container.mediator = MediatorProvider(behaviors=[container.behavior])
    found = problems_of(container)
    assert [problem.label for problem in found] == ["container.sync", "container.behavior"]
    assert all("async def" in problem.text for problem in found)


def test_a_decorated_async_handler_is_valid():
    def decorated(function):
        @functools.wraps(function)
        def call(*arguments):
            return function(*arguments)

        return call

    class Decorated(RequestHandler[CountOrders, int]):
        @decorated
        async def handle(self, _):
            return 1

    validate(container_of(decorated=providers.Factory(Decorated)))


def handler_returning(request, returned):
    class Returning(RequestHandler[request, returned]):
        async def handle(self, _):
            pass

    return Returning


def request_for(promised):
    class Asking(Command[promised]):
        pass

    return Asking


@pytest.mark.parametrize(
    ("promised", "returned"),
    [
        (int, int),
        (int, OrderId),
        (OrderId, OrderId),
        (int, bool),
        (None, None),
        (int | None, int),
        (int | None, None),
        (Sequence[int], list[int]),
        (list[int], list[int]),
        (dict[str, OrderId], dict[str, OrderId]),
        (Any, str),
        (str, Any),
        (float, int),
        (object, str),
        (T, str),
        ("Later", int),
    ],
)
def test_a_handler_may_return_the_response_type_of_its_request_or_a_subtype(promised, returned):
    validate(container_of(handler=providers.Factory(handler_returning(request_for(promised), returned))))


@pytest.mark.parametrize(
    ("promised", "returned"),
    [
        (int, str),
        (OrderId, int),
        (OrderId, NewType("CustomerId", int)),
        (int, None),
        (None, int),
        (int, int | None),
        (list[int], list[str]),
        (Sequence[int], int),
    ],
)
def test_a_handler_with_another_response_type_is_a_fault(promised, returned):
    cls = handler_returning(request_for(promised), returned)
    problem = only_problem(container_of(handler=providers.Factory(cls)))
    assert "but Asking is a request for" in problem.text


# Arguments of constructors.


class Abstract(ABC):
    @abstractmethod
    def work(self) -> None: ...


class AbstractHandler(RequestHandler[CountOrders, int]):
    pass


class Clock(Protocol):
    def now(self) -> float: ...


Url = NewType("Url", str)


class Wanting:
    def __init__(
        self,
        *rest: int,
        clock: Clock | None = None,
        url: Url = Url(""),
        make: Callable[[], Session] | None = None,
        kind: type[Session] | None = None,
        sessions: Sequence[Session] = (),
        unknown=None,
        **more: int,
    ) -> None: ...


def make_url() -> Url:
    return Url("x")


def make_untyped():
    return Session()


async def open_session() -> AsyncIterator[Session]:
    yield Session()


@pytest.mark.parametrize(
    "repository",
    [
        providers.Factory(Repository, providers.Factory(Session)),
        providers.Factory(Repository, session=providers.Resource(open_session)),
        providers.Factory(Repository, providers.Singleton(type("Derived", (Session,), {}))),
        providers.Factory(Repository, providers.Factory(make_untyped)),
        providers.Factory(Repository, providers.Object(Session())),
        providers.Factory(Repository, providers.Dependency(instance_of=object, default=providers.Factory(Session))),
        providers.Factory(lambda: None),
        providers.Factory(dict, a=1),
        providers.Factory(
            Wanting,
            1,
            2,
            clock=providers.Factory(Session),
            url=providers.Callable(make_url),
            make=providers.Factory(Session).provider,
            kind=Session,
            sessions=providers.List(providers.Factory(Session)),
            unknown=Session,
            other=Session,
        ),
    ],
    ids=range(9),
)
def test_a_fitting_argument_is_no_fault(repository):
    class Handler(RequestHandler[CountOrders, int]):
        def __init__(self, repository):
            pass

        async def handle(self, _):
            return 1

    validate(container_of(handler=providers.Factory(Handler, repository)))


@pytest.mark.parametrize(
    ("repository", "text"),
    [
        (providers.Factory(Repository), "missing a required argument: 'session'"),
        (providers.Factory(Repository, 1, 2), "too many positional arguments"),
        (providers.Factory(Repository, providers.Factory(Session), sesion=1), "unexpected keyword argument 'sesion'"),
        (providers.Factory(Repository, Session), "gets the class Session itself as 'session'"),
        (
            providers.Factory(Repository, providers.Factory(Orders, providers.Factory(UnitOfWork))),
            "needs a Session as 'session', but container.counting provides a Orders",
        ),
        (
            providers.Factory(Repository, providers.Dependency(default=providers.Factory(Orders, 1))),
            "container.counting provides a Orders",
        ),
        (
            providers.Factory(Repository, providers.Dependency(instance_of=Session)),
            "has no provider of Session. Pass a provider",
        ),
        (providers.Factory(Repository, providers.Factory(Abstract)), "does not implement work"),
        (providers.AbstractFactory(Repository), "is abstract: override it"),
        (providers.Factory(), "is abstract: override it"),
        (providers.Factory(Repository, providers.Singleton(Repository)), "missing a required argument"),
        (
            providers.Factory(Wanting, kind=providers.Factory(Session), url=Session),
            "gets the class Session itself as 'url'",
        ),
    ],
)
def test_a_provider_that_cannot_construct_its_object_is_a_fault(repository, text):
    found = problems_of(container_of(counting=providers.Factory(Counting, repository)))
    assert any(text in problem.text and problem.label == "container.counting" for problem in found), found


def test_an_abstract_handler_is_a_fault():
    problem = only_problem(container_of(handler=providers.Factory(AbstractHandler)))
    assert problem.text == "is abstract: it does not implement handle."


def test_faults_do_not_show_default_values():
    class Connection:
        def __init__(self, url, password="hunter2"): ...

    problem = only_problem(container_of(connection=providers.Resource(Connection)))
    assert "password=" in problem.text
    assert "hunter2" not in problem.text


def test_a_factory_called_only_by_the_application_may_lack_arguments_but_not_have_wrong_ones():
    validate(container_of(repository=providers.Factory(Repository)))
    validate(container_of(user=providers.Factory(Counting, providers.Factory(Repository).provider)))
    assert "unexpected" in only_problem(container_of(repository=providers.Factory(Repository, sesion=1))).text


def test_a_duck_typed_override_is_accepted_for_an_annotated_parameter():
    class Fake:
        pass

    container = container_of(session=providers.Factory(Session))
    container.repository = providers.Factory(Repository, container.session)
    container.counting = providers.Factory(Counting, container.repository)
    with override(container, session=Fake()):
        validate(container)


def test_a_dependency_that_is_filled_with_the_wrong_class_is_a_fault():
    class Module(containers.DeclarativeContainer):
        session = providers.Dependency(instance_of=Session)

    container = container_of(module=providers.Container(Module, session=providers.Factory(Repository, 1)))
    assert "must be a Session, but is provided with a Repository" in only_problem(container).text


def test_an_undefined_dependency_of_a_nested_container_is_named():
    class Module(containers.DeclarativeContainer):
        infrastructure = providers.DependenciesContainer()
        session = providers.Dependency(instance_of=Session)
        counting = providers.Factory(Counting, infrastructure.repository)

    found = problems_of(container_of(module=providers.Container(Module)))
    assert {problem.label for problem in found} == {"container.module.session", "container.module.counting"}


def test_a_base_class_provider_that_still_holds_a_redeclared_dependency_is_found():
    class Base(containers.DeclarativeContainer):
        repository = providers.Dependency(instance_of=Repository)
        counting = providers.Factory(Counting, repository)

    class App(Base):
        repository = providers.Factory(Repository, providers.Factory(Session))

    problem = only_problem(App())
    assert problem.label == "container.counting"
    assert "providers of the base class do not use it" in problem.text


# Cycles.


class Needing:
    def __init__(self, other): ...


def circular(first_kind, second_kind):
    container = container_of(first=first_kind(Needing), second=second_kind(Needing))
    container.first.add_args(container.second)
    container.second.add_args(container.first)
    return container


@pytest.mark.parametrize(
    "kind", [providers.Factory, providers.Singleton, providers.Resource, Scoped, providers.Callable]
)
def test_a_circular_dependency_is_found_before_anything_is_resolved(kind):
    found = problems_of(circular(kind, providers.Factory))
    circles = [problem for problem in found if "circular" in problem.text]
    assert len(circles) == 1
    assert "container.first -> container.second -> container.first" in circles[0].text


async def test_the_lifespan_of_a_circular_container_raises_without_resolving_providers():
    with pytest.raises(ContainerValidationError, match="circular"):
        async with lifespan(circular(providers.Singleton, providers.Factory)):
            raise AssertionError("entered")


def test_a_cycle_through_dependencies_overrides_and_attributes_is_found():
    one, two = providers.Dependency(), providers.Dependency()
    one.override(two)
    two.override(one)
    attribute = providers.Factory(Session)
    attribute.add_attributes(me=attribute)
    decorated = providers.Factory(Session)
    decorated.override(providers.Factory(Needing, decorated))
    for container in (container_of(one=one, two=two), container_of(a=attribute), container_of(d=decorated)):
        assert "circular" in only_problem(container).text


def test_a_provider_that_depends_on_itself_is_reported_once_and_apart_from_other_cycles():
    container = circular(providers.Factory, providers.Factory)
    container.selfish = providers.Factory(Needing)
    container.selfish.add_args(container.selfish)
    container.user = providers.Factory(Needing, container.first)
    assert [problem.label for problem in problems_of(container)] == ["container.first", "container.selfish"]


def test_a_cycle_that_a_delegate_breaks_is_valid():
    container = container_of(first=providers.Factory(Needing), second=providers.Factory(Needing))
    container.first.add_args(container.second)
    container.second.add_args(container.first.provider)
    validate(container)


def test_a_behavior_and_a_handler_may_hold_the_mediator():
    class Holding(PipelineBehavior[Any, Any]):
        def __init__(self, mediator: Mediator) -> None: ...

        async def handle(self, message, call_next):
            return await call_next()

    class App(containers.DeclarativeContainer):
        mediator = MediatorProvider()
        holding = providers.Singleton(Holding, mediator)
        behaviors = providers.List(holding)

    container = App()
    container.mediator = MediatorProvider(behaviors=container.behaviors)
    container.holding.set_args(container.mediator)
    validate(container)


def test_a_cycle_does_not_crash_the_interpreter():
    program = """
        import asyncio
        from dependency_injector import containers, providers
        from mediator.dependency_injector import lifespan

        class Needing:
            def __init__(self, other): ...

        async def main():
            container = containers.DynamicContainer()
            container.first = providers.Singleton(Needing)
            container.second = providers.Resource(Needing, container.first)
            container.first.add_args(container.second)
            async with lifespan(container):
                pass

        asyncio.run(main())
        """
    run = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program)], capture_output=True, text=True, timeout=60, check=False
    )
    assert run.returncode == 1
    assert "ContainerValidationError" in run.stderr
    assert "circular dependency" in run.stderr


# Captives.


@pytest.mark.parametrize("kind", [providers.Singleton, providers.Resource, providers.ThreadSafeSingleton])
def test_a_long_lived_provider_must_not_hold_a_scoped_object(kind):
    container = container_of(unit_of_work=Scoped(UnitOfWork))
    container.orders = providers.Factory(Orders, container.unit_of_work)
    container.service = kind(Needing, container.orders)
    problem = only_problem(container)
    assert problem.label == "container.service"
    assert "holds container.orders -> container.unit_of_work, which lives for one dispatch" in problem.text


def test_a_captive_is_found_behind_overrides_and_dependencies():
    scoped = Scoped(UnitOfWork)
    dependency = providers.Dependency(instance_of=UnitOfWork, default=scoped)
    replaced = providers.Factory(UnitOfWork)
    replaced.override(scoped)
    scoped_overridden = Scoped(UnitOfWork)
    scoped_overridden.override(UnitOfWork())
    attribute = Scoped(UnitOfWork).provided.closed
    for held in (dependency, replaced, scoped_overridden, attribute):
        assert "which lives for one dispatch" in only_problem(container_of(s=providers.Singleton(Needing, held))).text


def test_a_captive_is_reported_by_the_nearest_keeper_only():
    container = container_of(unit_of_work=Scoped(UnitOfWork))
    container.inner = providers.Singleton(Needing, container.unit_of_work)
    container.outer = providers.Singleton(Needing, container.inner)
    assert only_problem(container).label == "container.inner"


def test_a_singleton_may_hold_a_scoped_provider():
    container = container_of(unit_of_work=Scoped(UnitOfWork))
    container.service = providers.Singleton(Needing, container.unit_of_work.provider)
    container.fake = providers.Singleton(Needing, container.unit_of_work)
    container.fake.override(providers.Factory(Needing, container.unit_of_work))
    validate(container)


@dataclass
class Notifying(NotificationHandler[OrderPlaced]):
    orders: Orders

    async def handle(self, _: OrderPlaced) -> None: ...


def test_many_handlers_are_checked_quickly():
    container = container_of(unit_of_work=Scoped(UnitOfWork))
    container.orders = providers.Factory(Orders, container.unit_of_work)
    for number in range(300):
        setattr(container, f"handler_{number}", providers.Factory(Notifying, container.orders))
    validate(container)
