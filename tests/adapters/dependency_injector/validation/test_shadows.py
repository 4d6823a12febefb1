"""A provider that is declared anew is what everything uses, or it is said that something goes on with the earlier one."""

import asyncio
from dataclasses import dataclass

import pytest
from dependency_injector import containers, providers

from mediator.dependency_injector import MediatorProvider, Scoped, lifespan, override, rewired, validate
from mediator.errors import ContainerValidationError
from mediator.handlers import RequestHandler
from mediator.mediator import Mediator
from mediator.messages import Command
from mediator.pipeline import PipelineBehavior


@dataclass(frozen=True, slots=True)
class Inner(Command[str]):
    pass


@dataclass(frozen=True, slots=True)
class Outer(Command[str]):
    pass


class Part:
    def __init__(self, *parts, **named) -> None:
        self.parts = parts
        self.named = named


class Engine:
    def __init__(self, *parts) -> None:
        self.parts = parts


class OtherEngine(Engine):
    pass


class Session:
    def __init__(self, *parts) -> None:
        self.parts = parts


class InnerHandler(RequestHandler[Inner, str]):
    async def handle(self, _):
        return "inner"


class OuterHandler(RequestHandler[Outer, str]):
    def __init__(self, mediator: Mediator) -> None:
        self._mediator = mediator

    async def handle(self, _):
        return await self._mediator.send(Inner())


class Tagging(PipelineBehavior[Command[str], str]):
    async def handle(self, _, call_next):
        return f"<{await call_next()}>"


class Base(containers.DeclarativeContainer):
    mediator = MediatorProvider()
    inner = providers.Factory(InnerHandler)
    outer = providers.Factory(OuterHandler, mediator)


def shadowed(container):
    """The problems of providers that are shadowed: label and text."""
    with pytest.raises(ContainerValidationError) as caught:
        validate(container)
    found = [problem for problem in caught.value.problems if "redeclared" in problem.text or "assigned" in problem.text]
    return {problem.label: problem.text for problem in found}


class Derived(Base):
    mediator = MediatorProvider(behaviors=providers.List(providers.Factory(Tagging)))


def test_a_mediator_declared_anew_is_reported_with_who_still_holds_the_one_of_the_base_and_what_to_do():
    with pytest.raises(ContainerValidationError) as caught:
        validate(Derived())

    (problem,) = caught.value.problems
    assert str(problem) == (
        "container.mediator (Mediator): is redeclared in Derived, but container.outer still uses the provider of Base. "
        "Write `@rewired` above `class Derived`, so that it uses the new provider. In a test, use the base class and "
        "`override(container, mediator=...)`."
    )


@pytest.mark.parametrize("decorator", [rewired, containers.copy(Base)], ids=["rewired", "copy"])
async def test_a_decorator_gives_all_that_is_inherited_the_mediator_that_is_declared_anew(decorator):
    @decorator
    class Decorated(Base):
        mediator = MediatorProvider(behaviors=providers.List(providers.Factory(Tagging)))
        again = providers.Singleton(Part, Base.mediator)

    async with lifespan(Decorated()) as container:
        assert await container.mediator().send(Outer()) == "<<inner>>"
        assert container.again().parts == (container.mediator(),)
    async with lifespan(Base()) as container:
        assert await container.mediator().send(Outer()) == "inner"


@pytest.mark.parametrize("kind", [providers.Singleton, providers.Resource, Scoped, providers.ThreadSafeSingleton])
async def test_what_is_rewired_is_one_object_under_its_name_and_for_all_that_holds_it(kind):
    class Holding(containers.DeclarativeContainer):
        __self__ = providers.Self()
        mediator = MediatorProvider()
        engine = kind(Engine)
        session = providers.Factory(Session, engine, __self__)
        billing = providers.Container(Billing, engine=engine)
        holder = providers.Factory(Part, billing.session, session=session)

    @rewired
    class Renewing(Holding):
        engine = kind(OtherEngine, Holding.engine)
        more = providers.Factory(Part, Holding.session, Holding.engine)

    @rewired
    class Leaf(Renewing):
        pass

    for container in (Renewing(), Leaf()):
        assert not reported(container)
        async with lifespan(container), container.mediator().scope():
            engine = container.engine()
            assert isinstance(engine, OtherEngine)
            assert [type(each) for each in engine.parts] == [Engine]
            assert container.session().parts == (engine, container)
            assert container.billing.session().parts == (engine,)
            assert container.more().parts[0].parts[0] is container.more().parts[1] is engine
            held = container.holder()
            assert held.parts[0].parts[0] is held.named["session"].parts[0] is engine


def test_two_holders_are_named_with_a_base_further_up():
    class Wide(Base):
        again = providers.Singleton(Part, Base.mediator)

    class Between(Wide):
        pass

    class Leaf(Between):
        mediator = MediatorProvider()

    (text,) = shadowed(Leaf()).values()
    assert "container.outer and container.again still use the provider of Base" in text
    assert "`@rewired` above `class Leaf`, so that they use the new provider" in text


def test_what_a_class_between_declares_anew_is_reported_in_what_derives_from_that():
    class Leaf(Derived):
        pass

    assert (
        "redeclared in Derived, but container.outer still uses the provider of Base"
        in (shadowed(Leaf())["container.mediator"])
    )


def declared(held):
    """A container in which `holder` was made with the engine in some way, and one that declares the engine anew."""

    class Holding(containers.DeclarativeContainer):
        config = providers.Configuration()
        engine = providers.Singleton(Engine, config.url)
        holder = held(engine)

    class Renewing(Holding):
        engine = providers.Singleton(OtherEngine)

    return Holding, Renewing


HELD = {
    "by position": lambda engine: providers.Factory(Part, engine),
    "by name": lambda engine: providers.Singleton(Part, engine=engine),
    "as an attribute": lambda engine: providers.Factory(Part).add_attributes(engine=engine),
    "through a part without a name": lambda engine: providers.Factory(Part, providers.Factory(Part, engine)),
    "in a list": providers.List,
    "in a list of an argument": lambda engine: providers.Factory(Part, providers.List(providers.List(engine))),
    "in a dictionary": lambda engine: providers.Factory(Part, providers.Dict(a=engine)),
    "by a callable": lambda engine: providers.Callable(Part, engine),
    "by a coroutine": lambda engine: providers.Coroutine(asyncio.sleep, engine),
    "by a resource": lambda engine: providers.Resource(Part, engine),
    "by a scoped provider": lambda engine: Scoped(Part, engine),
    "as `.provider`": lambda engine: providers.Factory(Part, engine.provider),
    "as an attribute of it": lambda engine: providers.Factory(Part, engine.provided.parts[0]),
    "as a call of it": lambda engine: providers.Factory(Part, engine.provided.begin.call()),
    "as the default of a dependency": lambda engine: providers.Dependency(default=engine),
    "as a choice": lambda engine: providers.Selector(providers.Object("a"), a=engine),
    "in an aggregate": lambda engine: providers.Aggregate(a=engine),
    "among behaviors": lambda engine: MediatorProvider(behaviors=[providers.Factory(Part, engine)]),
}


@pytest.mark.parametrize("held", HELD.values(), ids=HELD)
def test_a_provider_declared_anew_is_reported_however_the_earlier_one_is_held(held):
    holding, renewing = declared(held)

    assert "container.holder still uses the provider of Holding" in shadowed(renewing())["container.engine"]
    for sound in (holding, rewired(renewing), containers.copy(holding)(declared(held)[1])):
        assert not reported(sound())


def reported(container):
    try:
        validate(container)
    except ContainerValidationError as error:
        return [problem for problem in error.problems if "anew" in problem.text or "assigned" in problem.text]
    return []


def test_a_configuration_declared_anew_is_reported_when_an_option_of_the_earlier_one_is_held():
    class Holding(containers.DeclarativeContainer):
        config = providers.Configuration()
        engine = providers.Singleton(Engine, config.database.url.as_(str))
        other = providers.Singleton(Part, config.database[config.kind])

    class Renewing(Holding):
        config = providers.Configuration(strict=True)

    assert "container.engine and container.other still use" in shadowed(Renewing())["container.config"]


def test_a_dependency_declared_anew_is_reported_with_who_holds_the_earlier_one():
    class Holding(containers.DeclarativeContainer):
        engine = providers.Dependency(instance_of=Engine)
        holder = providers.Factory(Part, engine)

    class Renewing(Holding):
        engine = providers.Singleton(Engine)

    with pytest.raises(ContainerValidationError) as caught:
        validate(Renewing())
    (problem,) = caught.value.problems
    assert problem.label == "container.holder"
    assert "If a derived container declares it, write `@rewired` above that container" in problem.text
    assert not reported(rewired(Renewing)())


class Billing(containers.DeclarativeContainer):
    engine = providers.Dependency(instance_of=Engine)
    session = providers.Factory(Session, engine)


def test_a_nested_container_that_was_given_the_earlier_provider_is_reported():
    class Holding(containers.DeclarativeContainer):
        engine = providers.Singleton(Engine)
        billing = providers.Container(Billing, engine=engine)

    class Renewing(Holding):
        engine = providers.Singleton(OtherEngine)

    assert "container.billing.engine still uses" in shadowed(Renewing())["container.engine"]


def test_a_nested_container_declared_anew_is_reported_when_something_holds_a_provider_of_the_earlier_one():
    class Holding(containers.DeclarativeContainer):
        engine = providers.Singleton(Engine)
        billing = providers.Container(Billing, engine=engine)
        holder = providers.Factory(Part, billing.session)

    class Renewing(Holding):
        billing = providers.Container(Billing, engine=Holding.engine)

    found = shadowed(Renewing())
    assert "container.holder still uses the provider of Holding" in found["container.billing.session"]


def test_a_derived_container_inside_another_one_is_looked_at_too():
    class App(containers.DeclarativeContainer):
        shop = providers.Container(Derived)

    assert "container.shop.outer still uses the provider of Base" in shadowed(App())["container.shop.mediator"]


def test_what_takes_the_place_of_a_provider_may_be_made_with_it():
    class Wrapping(Base):
        inner = providers.Factory(InnerHandler).add_attributes(inner=Base.inner)

    assert not reported(Wrapping())


def test_what_is_declared_anew_with_all_that_holds_it_is_no_fault():
    class Renewing(Base):
        mediator = MediatorProvider()
        outer = providers.Factory(OuterHandler, mediator)

    assert validate(Renewing()) is None


def test_what_overrides_the_providers_of_its_base_is_no_fault():
    class Holding(containers.DeclarativeContainer):
        engine = providers.Singleton(Engine)
        holder = providers.Factory(Part, engine)

    @containers.override(Holding)
    class Overriding(Holding):
        engine = providers.Singleton(OtherEngine)

    assert not reported(Overriding())
    assert isinstance(Overriding().holder().parts[0], OtherEngine)


def test_a_copy_that_is_made_with_its_earlier_self_is_reported_for_it_would_wrap_itself_twice():
    class Holding(containers.DeclarativeContainer):
        engine = providers.Singleton(Engine)

    @containers.copy(Holding)
    class Copied(Holding):
        engine = providers.Singleton(OtherEngine, Holding.engine)

    with pytest.raises(
        ContainerValidationError, match=r"container.engine \(OtherEngine\): gets itself as an argument"
    ) as caught:
        validate(Copied())
    assert "Write `@rewired` above `class Copied` instead." in str(caught.value)


# assigned anew


def test_a_provider_assigned_to_an_instance_is_reported():
    container = Base()
    container.mediator = MediatorProvider()

    assert (
        "was assigned too late: container.outer was made with another Mediator and still uses it"
        in (shadowed(container)["container.mediator"])
    )


def test_a_provider_of_any_kind_assigned_to_an_instance_is_reported():
    class Holding(containers.DeclarativeContainer):
        greeting = providers.Factory(Part, "Hello")
        holder = providers.Factory(Session, providers.List(greeting))
        billing = providers.Container(Billing, engine=providers.Singleton(Engine))

    container = Holding()
    container.greeting = providers.Factory(Part, "Good evening")

    assert list(shadowed(container)) == ["container.greeting"]


def test_a_holder_assigned_to_an_instance_is_no_fault():
    class Holding(containers.DeclarativeContainer):
        greeting = providers.Factory(Part, "Hello")
        holder = providers.Factory(Session, greeting)

    container = Holding()
    container.holder = providers.Factory(Session, container.greeting)

    assert not reported(container)


def test_a_mediator_assigned_to_a_class_or_a_dynamic_container_is_reported():
    class App(containers.DeclarativeContainer):
        mediator = MediatorProvider()
        inner = providers.Factory(InnerHandler)
        outer = providers.Factory(OuterHandler, mediator)

    App.mediator = MediatorProvider()
    dynamic = containers.DynamicContainer()
    dynamic.mediator = MediatorProvider()
    dynamic.inner = providers.Factory(InnerHandler)
    dynamic.outer = providers.Factory(OuterHandler, dynamic.mediator)
    dynamic.mediator = MediatorProvider()

    for container in (App(), dynamic):
        assert "container.outer was made with another Mediator" in shadowed(container)["container.mediator"]


def test_a_provider_that_several_hold_or_that_lasts_is_reported_when_its_name_was_assigned_anew():
    class App(containers.DeclarativeContainer):
        engine = providers.Resource(Engine)
        session = Scoped(Session, engine)
        part = providers.Factory(Part)
        one = providers.Factory(Session, part)
        two = providers.Factory(Session, part)

    App.engine = providers.Resource(OtherEngine)
    App.part = providers.Factory(Part, "new")

    found = shadowed(App())
    assert "container.session was made with another OtherEngine" in found["container.engine"]
    assert "container.one and container.two were made with another Part and still use it" in found["container.part"]


def test_a_part_without_a_name_is_no_fault_beside_one_of_its_class_that_has_one():
    class App(containers.DeclarativeContainer):
        part = providers.Factory(Part, "named")
        engine = providers.Resource(Engine)
        again = providers.Singleton(Engine)
        session = providers.Factory(Session, providers.Factory(Part, "inside"), engine)
        wrapped = providers.Singleton(OtherEngine, providers.Singleton(Engine))

    assert not reported(App())


async def test_what_is_overridden_is_no_fault():
    container = Base()
    with override(container, mediator=MediatorProvider()):
        assert not reported(container)
