"""Assumptions of `mediator.dependency_injector` about dependency-injector."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from dependency_injector import containers, providers

pytestmark = pytest.mark.thorough("tests other libraries and servers, which a change here cannot break")


class Engine:
    pass


class Repository:
    def __init__(self, engine: Any = None) -> None:
        self.engine = engine


def container(**members: Any) -> Any:
    made = containers.DynamicContainer()
    for name, provider in members.items():
        setattr(made, name, provider)
    return made


def test_a_factory_exposes_its_callable_and_its_arguments():
    """`Resolution` compiles `provides`, `args`, `kwargs` and `attributes`; the graph reads `related`."""
    engine = providers.Singleton(Engine)
    factory = providers.Factory(Repository, engine, named=1)
    assert (factory.provides, factory.args, factory.kwargs) == (Repository, (engine,), {"named": 1})
    assert factory.attributes == {}
    assert list(factory.related) == [engine]


def test_an_overriding_provider_answers_at_once_and_is_exposed():
    """`overriding` reads `last_overriding` at every call of a compiled provider."""
    factory = providers.Factory(Engine)
    assert factory.last_overriding is None
    replacement = providers.Object("replaced")
    with factory.override(replacement):
        assert factory.last_overriding is replacement
        assert factory() == "replaced"
    assert factory.last_overriding is None
    assert isinstance(factory(), Engine)


def test_overriding_with_a_plain_object_wraps_it_in_a_provider():
    """`override(container, students=FakeStudents())` relies on the wrapping."""
    factory = providers.Factory(Engine)
    with factory.override("plain"):
        assert isinstance(factory.last_overriding, providers.Object)
        assert factory() == "plain"


def test_a_singleton_keeps_overridden_dependencies_until_it_is_reset():
    """Therefore `override` resets the singletons that depend on a replaced provider."""
    engine = providers.Factory(Engine)
    repository = providers.Singleton(Repository, engine)
    before = repository()
    with engine.override(providers.Object("replaced")):
        assert repository() is before
        repository.reset()
        assert repository().engine == "replaced"


def test_a_provider_decides_at_its_first_call_whether_it_is_asynchronous_until_it_is_reset():
    """`forget_modes` resets the mode, so that an initialized resource is resolved without futures."""

    async def asynchronous() -> str:
        return "made"

    inner = providers.Coroutine(asynchronous)
    outer = providers.Factory(Repository, inner)
    assert outer.is_async_mode_undefined()

    async def call() -> None:
        assert asyncio.isfuture(made := outer())
        assert (await made).engine == "made"

    asyncio.run(call())
    assert outer.is_async_mode_enabled()
    for provider in (inner, outer):
        provider.reset_async_mode()
    assert outer.is_async_mode_undefined()
    with inner.override(providers.Object("plain")):
        assert outer().engine == "plain"
    assert outer.is_async_mode_disabled()


async def test_an_asynchronous_resource_returns_a_future_before_initialization_and_its_object_afterwards():
    """`started_resources` initializes each resource and resets the modes; later calls are synchronous."""
    events: list[str] = []

    @asynccontextmanager
    async def opened(name: str) -> AsyncGenerator[str, None]:
        events.append("opened")
        yield name
        events.append("closed")

    resource = providers.Resource(opened, "engine")
    user = providers.Factory(Repository, resource)
    await resource.init()
    resource.reset_async_mode()
    user.reset_async_mode()
    assert resource.initialized
    assert user().engine == "engine"
    await resource.shutdown()
    assert not resource.initialized
    assert events == ["opened", "closed"]


async def test_a_resource_initialized_twice_is_opened_once():
    """A resource that depends on another resource initializes that resource too."""
    opened: list[int] = []

    async def open_engine() -> AsyncGenerator[int, None]:
        opened.append(1)
        yield 1

    resource = providers.Resource(open_engine)
    await resource.init()
    await resource.init()
    assert opened == [1]
    await resource.shutdown()


async def test_shutting_down_an_uninitialized_resource_does_nothing():
    """`started_resources` also shuts down the resource that failed to start."""

    async def failing() -> AsyncGenerator[int, None]:
        raise LookupError
        yield 1

    resource = providers.Resource(failing)
    with pytest.raises(LookupError):
        await resource.init()
    assert not resource.initialized
    stopping = resource.shutdown()
    if stopping is not None:
        await stopping


def test_a_container_lists_its_providers_in_the_order_of_declaration():
    """`catalog.py` reads the providers in this order, and handlers of a notification run in it."""

    class App(containers.DeclarativeContainer):
        c = providers.Factory(Engine)
        a = providers.Factory(Engine)
        b = providers.Factory(Engine)

    class Derived(App):
        d = providers.Factory(Engine)

    assert list(App().providers) == ["c", "a", "b"]
    assert set(Derived().providers) == {"a", "b", "c", "d"}


def test_the_providers_of_a_container_instance_are_copies_that_reference_each_other():
    """A mediator belongs to one container instance, so an override in one instance does not affect another."""

    class App(containers.DeclarativeContainer):
        engine = providers.Factory(Engine)
        repository = providers.Factory(Repository, engine)

    one, other = App(), App()
    assert one.repository.args == (one.engine,)
    with one.engine.override(providers.Object("replaced")):
        assert one.repository().engine == "replaced"
        assert isinstance(other.repository().engine, Engine)


def test_a_dependency_in_a_container_has_a_reference_to_its_parent():
    """`MediatorProvider` and `HandlerScan` derive from `Dependency`, because `parent` gives them their container."""

    class Placed(providers.Dependency):
        pass

    class Inner(containers.DeclarativeContainer):
        placed = Placed()

    class App(containers.DeclarativeContainer):
        inner = providers.Container(Inner)
        placed = Placed()

    app = App()
    assert app.placed.parent is app
    inner: Any = app.inner
    assert inner.placed.parent is not app


def test_traverse_yields_every_provider_once_including_inline_and_overriding_ones():
    """`forget_modes` resets every provider that `traverse` yields."""
    inline = providers.Factory(Engine)
    overriding = providers.Object(1)
    made = container(engine=providers.Factory(Engine), repository=providers.Factory(Repository, inline))
    made.engine.override(overriding)
    met = list(made.traverse())
    assert {made.engine, made.repository, inline, overriding} <= set(met)
    assert len(met) == len(set(met))


def test_a_delegate_returns_the_provider_itself_without_calling_it():
    """A consumer receives its unit of work as `x.provider`; the graph draws no call for a delegate."""
    called: list[int] = []
    factory = providers.Factory(called.append, 1)
    delegate = factory.provider
    assert delegate() is factory
    assert called == []
    assert isinstance(delegate, providers.Delegate)
    assert delegate.provides is factory


def test_some_providers_return_a_provider_for_any_attribute():
    """Therefore `provider_kinds` uses `isinstance` and never `getattr`."""
    configuration = providers.Configuration()
    assert providers.is_provider(configuration.anything.at.all)
    assert providers.is_provider(providers.Factory(Engine).provided.anything)


def test_a_singleton_returns_the_same_object_and_a_factory_a_new_object_each_time():
    """`KEEPING` and `MAKING_ANEW` list both kinds; `validate` finds captive dependencies by them."""
    assert isinstance(providers.ThreadSafeSingleton(Engine), providers.BaseSingleton)
    singleton, factory = providers.Singleton(Engine), providers.Factory(Engine)
    assert singleton() is singleton()
    assert factory() is not factory()


def test_an_abstract_provider_refuses_to_be_called():
    """`validate` reports abstract factories and dependencies without a default before they are called."""
    with pytest.raises(Exception, match="abstract|must be overridden"):
        providers.AbstractFactory(Engine)()
    with pytest.raises(Exception, match="not defined"):
        providers.Dependency(instance_of=Engine)()


def test_a_copy_of_a_provider_subclass_has_the_same_class():
    """`Scoped`, `MediatorProvider` and `HandlerScan` are copied into each container instance."""

    class Own(providers.Factory):
        pass

    class App(containers.DeclarativeContainer):
        own = Own(Engine)

    assert type(App().own) is Own


def test_a_configuration_option_stores_its_configuration_under_a_private_name():
    """`provider_kinds.parts` reads the private name, because no public name gives the configuration."""
    config = providers.Configuration()
    assert config.database.url._get_root() is config
    assert config.database["url"]._get_root() is config
