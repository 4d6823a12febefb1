"""A redeclared provider is used by every other provider, or the remaining holders of the earlier one are reported."""

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
    """Return the text of each problem of a shadowed provider by label."""
    with pytest.raises(ContainerValidationError) as caught:
        validate(container)
    found = [problem for problem in caught.value.problems if "redeclared" in problem.text or "assigned" in problem.text]
    return {problem.label: problem.text for problem in found}


class Derived(Base):
    mediator = MediatorProvider(behaviors=providers.List(providers.Factory(Tagging)))


def test_a_redeclared_mediator_is_reported_with_the_remaining_holders_and_the_remedy():
    with pytest.raises(ContainerValidationError) as caught:
        validate(Derived())

    (problem,) = caught.value.problems
    assert str(problem) == (
        "container.mediator (Mediator): is redeclared in Derived, but container.outer still uses the provider of Base. "
        "Write `@rewired` above `class Derived`, so that it uses the new provider. In a test, use the base class and "
        "`override(container, mediator=...)`."
    )


@pytest.mark.parametrize("decorator", [rewired, containers.copy(Base)], ids=["rewired", "copy"])
async def test_the_rewired_decorator_gives_inherited_providers_the_redeclared_mediator(decorator):
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
async def test_a_rewired_provider_is_one_object_for_its_name_and_for_its_holders(kind):
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


def test_two_holders_are_named_for_a_distant_base_class():
    class Wide(Base):
        again = providers.Singleton(Part, Base.mediator)

    class Between(Wide):
        pass

    class Leaf(Between):
        mediator = MediatorProvider()

    (text,) = shadowed(Leaf()).values()
    assert "container.outer and container.again still use the provider of Base" in text
    assert "`@rewired` above `class Leaf`, so that they use the new provider" in text


def test_a_redeclaration_in_an_intermediate_class_is_reported_in_its_subclasses():
    class Leaf(Derived):
        pass

    assert (
        "redeclared in Derived, but container.outer still uses the provider of Base"
        in (shadowed(Leaf())["container.mediator"])
    )


def declared(held):
    """Return a container whose `holder` uses the engine in some way, and a subclass that redeclares the engine."""

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
def test_a_redeclared_provider_is_reported_for_every_way_of_holding_the_earlier_one(held):
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


def test_a_redeclared_configuration_is_reported_if_an_option_of_the_earlier_one_is_held():
    class Holding(containers.DeclarativeContainer):
        config = providers.Configuration()
        engine = providers.Singleton(Engine, config.database.url.as_(str))
        other = providers.Singleton(Part, config.database[config.kind])

    class Renewing(Holding):
        config = providers.Configuration(strict=True)

    assert "container.engine and container.other still use" in shadowed(Renewing())["container.config"]


def test_a_redeclared_dependency_is_reported_with_the_holder_of_the_earlier_one():
    class Holding(containers.DeclarativeContainer):
        engine = providers.Dependency(instance_of=Engine)
        holder = providers.Factory(Part, engine)

    class Renewing(Holding):
        engine = providers.Singleton(Engine)

    with pytest.raises(ContainerValidationError) as caught:
        validate(Renewing())
    (problem,) = caught.value.problems
    assert problem.label == "container.holder"
    assert "If a derived container declares the provider, write `@rewired` above that container" in problem.text
    assert not reported(rewired(Renewing)())


class Billing(containers.DeclarativeContainer):
    engine = providers.Dependency(instance_of=Engine)
    session = providers.Factory(Session, engine)


def test_a_nested_container_that_received_the_earlier_provider_is_reported():
    class Holding(containers.DeclarativeContainer):
        engine = providers.Singleton(Engine)
        billing = providers.Container(Billing, engine=engine)

    class Renewing(Holding):
        engine = providers.Singleton(OtherEngine)

    assert "container.billing.engine still uses" in shadowed(Renewing())["container.engine"]


def test_a_redeclared_nested_container_is_reported_if_a_provider_of_the_earlier_one_is_held():
    class Holding(containers.DeclarativeContainer):
        engine = providers.Singleton(Engine)
        billing = providers.Container(Billing, engine=engine)
        holder = providers.Factory(Part, billing.session)

    class Renewing(Holding):
        billing = providers.Container(Billing, engine=Holding.engine)

    found = shadowed(Renewing())
    assert "container.holder still uses the provider of Holding" in found["container.billing.session"]


def test_a_nested_derived_container_is_checked():
    class App(containers.DeclarativeContainer):
        shop = providers.Container(Derived)

    assert "container.shop.outer still uses the provider of Base" in shadowed(App())["container.shop.mediator"]


def test_a_redeclared_provider_may_wrap_the_earlier_one():
    class Wrapping(Base):
        inner = providers.Factory(InnerHandler).add_attributes(inner=Base.inner)

    assert not reported(Wrapping())


def test_a_provider_redeclared_together_with_its_holders_is_no_fault():
    class Renewing(Base):
        mediator = MediatorProvider()
        outer = providers.Factory(OuterHandler, mediator)

    assert validate(Renewing()) is None


def test_a_container_that_overrides_its_base_is_no_fault():
    class Holding(containers.DeclarativeContainer):
        engine = providers.Singleton(Engine)
        holder = providers.Factory(Part, engine)

    @containers.override(Holding)
    class Overriding(Holding):
        engine = providers.Singleton(OtherEngine)

    assert not reported(Overriding())
    assert isinstance(Overriding().holder().parts[0], OtherEngine)


def test_a_copied_provider_that_would_wrap_itself_twice_is_reported():
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


# Reassigned providers.


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


def test_a_shared_or_long_lived_provider_is_reported_if_its_name_was_reassigned():
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


def test_an_unnamed_part_is_no_fault_if_a_named_part_has_the_same_class():
    class App(containers.DeclarativeContainer):
        part = providers.Factory(Part, "named")
        engine = providers.Resource(Engine)
        again = providers.Singleton(Engine)
        session = providers.Factory(Session, providers.Factory(Part, "inside"), engine)
        wrapped = providers.Singleton(OtherEngine, providers.Singleton(Engine))

    assert not reported(App())


async def test_an_overridden_provider_is_no_fault():
    container = Base()
    with override(container, mediator=MediatorProvider()):
        assert not reported(container)
