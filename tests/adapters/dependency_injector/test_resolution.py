import asyncio
import traceback
from typing import Any

import pytest
from dependency_injector import containers, providers
from hypothesis import given, settings
from hypothesis import strategies as st

from mediator import Command, RequestHandler
from mediator.dependency_injector import MediatorProvider, Scoped, lifespan, override
from mediator.dependency_injector.resolution import Resolution, forget
from mediator.mediator import Mediator
from mediator.registry import Registry
from mediator.scope import enter
from mediator.transactions import TransactionMode

# Objects of compiled providers are compared with objects of the same providers when they are called. Both sets of
# providers are created from one description, and every step is applied to both.


class Made:
    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self.args = args
        self.kwargs = kwargs


class Other(Made):
    pass


class Failing(Made):
    def __init__(self, *args: Any, **kwargs: Any) -> None:
        raise LookupError(len(args), sorted(kwargs))


class OwnFactory(providers.Factory):
    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return ("own", super().__call__(*args, **kwargs))


class OwnScoped(Scoped):
    pass


async def make_later(*args: Any, **kwargs: Any) -> Made:
    return Made(*args, **kwargs)


def with_attributes(cls: type, *args: Any, **kwargs: Any) -> Any:
    return providers.Factory(cls, *args).add_attributes(**kwargs)


def dependency(_: type, *args: Any, **__: Any) -> Any:
    return providers.Dependency(default=args[0] if args and isinstance(args[0], providers.Provider) else Made)


KINDS: dict[str, Any] = {
    "factory": providers.Factory,
    "scoped": Scoped,
    "singleton": providers.Singleton,
    "thread-safe singleton": providers.ThreadSafeSingleton,
    "callable": providers.Callable,
    "delegated": providers.DelegatedFactory,
    "object": lambda _, *args, **__: providers.Object(args),
    "list": lambda _, *args, **__: providers.List(*args),
    "later": lambda _, *args, **kwargs: providers.Coroutine(make_later, *args, **kwargs),
    "factory of later": lambda _, *args, **kwargs: providers.Factory(make_later, *args, **kwargs),
    "own factory": OwnFactory,
    "own scoped": OwnScoped,
    "with attributes": with_attributes,
    "dependency": dependency,
}
COMMON = ["factory", "factory", "factory", "scoped", "singleton"]
CLASSES = [Made, Made, Other, Failing]
NAMES = ["first", "second", "class", "Straße"]

kinds = st.sampled_from([*COMMON, "later", "delegated", *KINDS])
picks = st.integers(0, 30)
arguments = st.lists(st.tuples(picks, st.sampled_from(["called", "called", "called", "given", "value"])), max_size=3)
keywords = st.dictionaries(st.sampled_from(NAMES), st.tuples(picks, st.sampled_from(["called", "value"])), max_size=2)
nodes = st.tuples(kinds, st.sampled_from(CLASSES), arguments, keywords)
steps = st.one_of(
    st.tuples(st.just("resolve"), picks),
    st.tuples(st.just("resolve"), picks),
    st.tuples(st.just("override"), picks, nodes),
    st.tuples(st.just("take back"), picks),
    st.tuples(st.just("restore"), picks),
    st.tuples(st.just("reset"), picks),
    st.tuples(st.just("change"), picks, arguments, keywords),
    st.tuples(st.just("change class"), picks, st.sampled_from(CLASSES)),
    st.tuples(st.just("start anew")),
    st.tuples(st.just("new scope")),
)


class Side:
    """One of the two sets: its providers, the function that calls them, and the results so far."""

    def __init__(self, described: list[Any], compile_source: Any) -> None:
        self.providers: list[Any] = []
        self.numbers: dict[int, int] = {}
        self.alive: list[Any] = []
        for node in described:
            self.providers.append(self.make(node, self.providers[:]))
        self.sources = [compile_source(provider) for provider in self.providers]
        self.before = self.providers[:]

    def make(self, node: Any, among: list[Any]) -> Any:
        kind, cls, args, kwargs = node
        return KINDS[kind](cls, *self.injected(args, among), **dict(self.named(kwargs, among)))

    def named(self, kwargs: Any, among: list[Any]) -> Any:
        return zip(kwargs, self.injected(kwargs.values(), among), strict=True)

    def injected(self, picked: Any, among: list[Any]) -> list[Any]:
        found = []
        for pick, how in picked:
            chosen = among[pick % len(among)] if among else pick
            found.append(chosen.provider if how == "given" and among else chosen if how != "value" else pick)
        return found

    async def do(self, step: Any) -> Any:
        name, *given = step
        index = given[0] % len(self.providers) if given else 0
        provider, earlier = self.providers[index], self.providers[:index]
        if name == "resolve":
            return await self.resolved(self.sources[index])
        if name == "override":
            provider.override(self.make(given[1], earlier))
        elif name == "take back":
            provider.reset_last_overriding() if provider.overridden else None
        elif name == "restore":
            provider.reset_override()
        elif name == "reset" and isinstance(provider, providers.BaseSingleton):
            provider.reset()
        elif isinstance(provider, providers.Factory):
            if name == "change":
                provider.set_args(*self.injected(given[1], earlier)).set_kwargs(**dict(self.named(given[2], earlier)))
            if name == "change class":
                provider.set_provides(given[1])
        return None

    async def resolved(self, source: Any) -> Any:
        try:
            made = source()
            if hasattr(made, "__await__"):
                return ("later", self.shown(await made))
            return self.shown(made)
        except Exception as error:  # compared like everything else
            return (type(error), str(error).partition(" at 0x")[0])

    def shown(self, value: Any) -> Any:
        """Return a comparable form of an object: classes, arguments, and identities."""
        self.alive.append(value)
        number = self.numbers.setdefault(id(value), len(self.numbers))
        if asyncio.iscoroutine(value):
            value.close()
        if isinstance(value, Made):
            named = {name: self.shown(each) for name, each in vars(value).items() if name not in ("args", "kwargs")}
            kwargs = {name: self.shown(each) for name, each in value.kwargs.items()}
            return (number, type(value), [self.shown(each) for each in value.args], kwargs, named)
        if isinstance(value, (list, tuple)):
            return [self.shown(each) for each in value]
        return value if isinstance(value, (int, str)) else (number, type(value))


def done(described: list[Any], todo: list[Any], compile_source: Any) -> list[Any]:
    async def run() -> list[Any]:
        side, seen = Side(described, compile_source), []
        scope = enter(TransactionMode.NEW, "a test", Mediator(Registry()))
        for step in todo:
            if step[0] == "new scope":
                await scope.leave()
                scope = enter(TransactionMode.NEW, "a test", Mediator(Registry()))
            seen.append(await side.do(step))
            if step[0] in ("start anew", "change", "change class"):
                for provider in side.providers if step[0] == "start anew" else ():
                    provider.reset_async_mode()
                forget()
        await scope.leave()
        return seen

    return asyncio.run(run())


@pytest.mark.thorough("waits in real time, or does much work")
@settings(max_examples=250)
@given(st.lists(nodes, min_size=1, max_size=7), st.lists(steps, min_size=2, max_size=14))
@pytest.mark.filterwarnings("ignore:coroutine .* was never awaited:RuntimeWarning")  # some become arguments
def test_a_compiled_resolution_agrees_with_its_provider_under_any_overrides(described: list[Any], todo: list[Any]):
    everything = [("resolve", index) for index in range(len(described))]
    each_time = [step for one in todo for step in (one, *everything)]
    compiled = done(described, [*everything, *each_time], Resolution().compiled)
    assert compiled == done(described, [*everything, *each_time], lambda provider: provider)


class Repository:
    pass


class FakeRepository(Repository):
    pass


class Ask(Command[list[Any]]):
    pass


class Asked:
    def __init__(self, repository: Any, limit: int = 0) -> None:
        self.repository = repository
        self.limit = limit


class AskHandler(RequestHandler[Ask, list[Any]]):
    def __init__(self, asked: Asked, *, repository: Any) -> None:
        self.asked = asked
        self.repository = repository

    async def handle(self, _: Ask, /) -> list[Any]:
        return [self.asked.repository, self.repository, self.asked.limit]


class App(containers.DeclarativeContainer):
    repository = Scoped(Repository)
    asked = providers.Factory(Asked, repository)
    ask = providers.Factory(AskHandler, asked, repository=repository)
    mediator = MediatorProvider()


async def types_of(container: Any) -> list[type]:
    return [type(each) for each in await container.mediator().send(Ask())]


async def test_overrides_of_any_kind_and_depth_take_effect_at_the_next_dispatch():
    async with lifespan(App()) as container:
        assert [await types_of(container) for _ in range(3)] == [[Repository, Repository, int]] * 3
        with container.repository.override(providers.Factory(FakeRepository)):
            assert await types_of(container) == [FakeRepository, FakeRepository, int]
        with container.asked.override(providers.Factory(Asked, "else", 7)):
            assert await types_of(container) == [str, Repository, int]
        container.override_providers(asked=providers.Factory(Asked, b""))
        assert await types_of(container) == [bytes, Repository, int]
        container.reset_override()
        with override(container, repository=FakeRepository()):
            assert await types_of(container) == [FakeRepository, FakeRepository, int]
        assert await types_of(container) == [Repository, Repository, int]


async def test_changed_arguments_and_classes_take_effect_at_the_next_start():
    container = App()
    async with lifespan(container):
        assert await types_of(container) == await types_of(container) == [Repository, Repository, int]
    container.asked.add_args(5)
    container.repository.set_provides(FakeRepository)
    async with lifespan(container):
        for _ in range(3):
            assert (await container.mediator().send(Ask()))[2] == 5
            assert await types_of(container) == [FakeRepository, FakeRepository, int]
    container.asked.set_kwargs(repository="by name").clear_args()
    container.ask.add_attributes(repository="attribute")
    async with lifespan(container):
        for _ in range(3):
            assert await container.mediator().send(Ask()) == ["by name", "attribute", 0]


async def test_an_asynchronous_override_is_awaited_and_ends_with_its_block():
    async def connect() -> Repository:
        await asyncio.sleep(0)
        return FakeRepository()

    async with lifespan(App()) as container:
        assert await types_of(container) == await types_of(container) == [Repository, Repository, int]
        with override(container, repository=providers.Coroutine(connect)):
            for _ in range(3):
                assert await types_of(container) == [FakeRepository, FakeRepository, int]
        assert await types_of(container) == await types_of(container) == [Repository, Repository, int]


async def test_scoped_objects_are_shared_within_a_scope_and_differ_between_scopes():
    async with lifespan(App()) as container:
        seen = [await container.mediator().send(Ask()) for _ in range(3)]
        assert all(first is second for first, second, _ in seen)
        assert len({id(first) for first, _, _ in seen}) == 3
        async with container.mediator().scope():
            assert (await container.mediator().send(Ask()))[0] is container.repository()


async def test_an_error_of_a_constructor_is_raised_unchanged_each_time():
    error = LookupError("no such thing")

    def fail() -> None:
        raise error

    async with lifespan(App()) as container:
        await types_of(container)
        with container.asked.override(providers.Factory(fail)):
            for _ in range(3):
                with pytest.raises(LookupError) as raised:
                    await types_of(container)
                assert raised.value is error
                assert traceback.extract_tb(error.__traceback__)[-1].name == "fail"


def test_factories_and_scoped_providers_are_compiled_once_and_other_providers_are_not():
    def source() -> None: ...

    resolution = Resolution()
    factory, own = providers.Factory(Made), OwnFactory(Made)
    assert resolution.compiled(factory) is resolution.compiled(factory) is not factory
    others = [own, source, providers.Singleton(Made), OwnScoped(Made), providers.Callable(Made)]
    assert [resolution.compiled(each) for each in others] == others


def test_providers_that_depend_on_each_other_can_be_compiled():
    first, second = providers.Factory(Made), providers.Factory(Made)
    first.add_args(second)
    second.add_args(first)
    source = Resolution().compiled(first)
    with second.override(7):  # otherwise the recursion would not end
        assert [source().args for _ in range(3)] == [(7,)] * 3


def test_a_factory_known_to_be_synchronous_is_bypassed():
    def place() -> list[str]:
        return [each.name for each in traceback.extract_stack()]

    source = Resolution().compiled(providers.Factory(Made, providers.Callable(place)))
    first, second, third = (source().args[0] for _ in range(3))
    assert "detour" in first
    assert "detour" not in second + third
    forget()
    assert "detour" in source().args[0]
