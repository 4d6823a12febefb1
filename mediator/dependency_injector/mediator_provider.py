"""MediatorProvider: provides the mediator of the container that declares the provider."""

from collections.abc import Iterator, Sequence
from typing import Any

from dependency_injector import providers

from mediator.dependency_injector.catalog import named_providers, read_catalog
from mediator.dependency_injector.declared import check_instance
from mediator.dependency_injector.handler_rules import find_handler_faults
from mediator.dependency_injector.provider_kinds import is_in_place, overriding
from mediator.dependency_injector.resolution import Resolution
from mediator.errors import ContainerValidationError
from mediator.mediator import Mediator
from mediator.pipeline import Source
from mediator.registry import Registry
from mediator.settings import check_counts
from mediator.strategies import PublishStrategy, check_strategy


class MediatorProvider(providers.Dependency[Mediator]):
    """Provides one `Mediator` per container instance, with the handlers found in this instance.

        class AppContainer(containers.DeclarativeContainer):
            logging = providers.Factory(LoggingBehavior)
            mediator = MediatorProvider(behaviors=providers.List(logging))
            enroll_student = providers.Factory(EnrollStudentHandler)

    Each container *instance* has a mediator of its own. This also holds for derived, nested and copied containers. The
    mediator refuses messages until `lifespan(container)` has started it. Overriding the list of behaviors takes effect
    when the mediator is next resolved. Overriding a handler or a behavior takes effect at the next dispatch.

    Args:
        behaviors: The behaviors, outermost first: `providers.List(...)`, a `Dependency` on such a list, or a sequence
            of providers.
        strategy: Runs the handlers of a notification whose class names no strategy; `Sequential()` by default.
        max_depth: The largest number of dispatches that may be nested in each other.

    Raises:
        SettingError: `strategy` is not a strategy, or `max_depth` is not a valid number.

    Calling the provider raises:
        ContainerError: The container is a class, not an instance.
        ContainerValidationError: A handler does not say what it handles, or an item of the list of behaviors is not a
            behavior.
    """

    # The base is `Dependency`, because a container sets the `parent` of a dependency: this is how the provider knows its
    # container. `providers.Self` as an argument would not help: in a derived class, it would return the base class.

    def __init__(
        self,
        *,
        behaviors: providers.Provider[Any] | Sequence[Any] = (),
        strategy: PublishStrategy | None = None,
        max_depth: int = 50,
    ) -> None:
        base: Any = super()
        base.__init__(Mediator)
        if strategy is not None:
            check_strategy(strategy)
        check_counts(max_depth=max_depth)
        self._strategy = strategy
        self._max_depth = max_depth
        self._behaviors: Any = behaviors if isinstance(behaviors, providers.Provider) else providers.List(*behaviors)
        self._mediator: Mediator | None = None
        self._named: dict[str, Any] = {}
        self._overriding: Any = None
        self._count = 0

    def __deepcopy__(self, memo: Any) -> Any:
        known = memo.get(id(self))
        if known is not None:
            return known
        if is_in_place(self, memo):
            self._behaviors = providers.deepcopy(self._behaviors, memo)
            return self
        base: Any = super()
        copied = base.__deepcopy__(memo)
        copied._behaviors = providers.deepcopy(self._behaviors, memo)  # noqa: SLF001 - a copy of this class
        copied._strategy, copied._max_depth = self._strategy, self._max_depth  # noqa: SLF001
        return copied

    @property
    def behaviors(self) -> Any:
        """The provider of the list of behaviors."""
        return self._behaviors

    @property
    def is_defined(self) -> bool:
        """Always true, since this dependency needs no provider from outside."""
        return True

    @property
    def related(self) -> Iterator[Any]:
        """The provider of the behaviors, and the provider that overrides `self`, if any."""
        yield self._behaviors
        base: Any = super()
        yield from base.related

    def __call__(self, *args: Any, **kwargs: Any) -> Mediator:  # type: ignore[override]  # the stub overloads it
        """Return the mediator. The docstring of the class lists the errors."""
        replacement: Any = overriding(self)
        if replacement is not None:
            replaced: Mediator = replacement(*args, **kwargs)
            return replaced
        return self.own()

    @property
    def container(self) -> Any:
        """The container instance that declares this provider.

        The value is the container class while the class is being created, and `None` for a provider outside of containers.
        """
        provider: Any = self
        return provider.parent

    def own(self) -> Mediator:
        """Return the container's own mediator with an up-to-date registry, even if this provider is overridden.

        This method has to be fast, since it runs at every dispatch to a handler that gets the mediator. It only checks
        whether the list of behaviors was overridden, and whether the container has more or fewer providers than before.
        """
        if self._mediator is None:
            check_instance(self.container)
            self._named = self.container.providers
            self._mediator = Mediator(self._read(), started=False, max_depth=self._max_depth)
        elif self._behaviors.last_overriding is not self._overriding or len(self._named) != self._count:
            self._mediator.rebind(self._read(late=self._mediator.started))
        return self._mediator

    def _read(self, *, late: bool = False) -> Registry:
        """Return a new registry. With `late`, also check handlers, which may have been added after `validate`."""
        catalog = read_catalog(self.container, self._behaviors)
        problems = [*catalog.problems, *(find_handler_faults(catalog) if late else ())]
        if problems:
            raise ContainerValidationError(self.container, problems)
        self._overriding = self._behaviors.last_overriding
        self._count = len(self._named)
        compiled = Resolution({MediatorProvider: _own_or_overriding}).compiled
        return Registry(
            catalog.handlers, catalog.behaviors, catalog.collaborators, strategy=self._strategy, compile_source=compiled
        )


def _own_or_overriding(provider: MediatorProvider) -> Source:
    own = provider.own

    def resolve() -> Mediator:
        return own() if overriding(provider) is None else provider()

    return resolve


def mediators_of(container: Any) -> list[tuple[str, MediatorProvider]]:
    """Return the mediator providers of a container and of nested containers, each with its label."""
    return [(label, each) for label, each in named_providers(container) if isinstance(each, MediatorProvider)]
