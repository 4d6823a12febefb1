"""HandlerScan: the handlers in packages, each with a provider whose arguments are chosen by type."""

import difflib
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from dependency_injector import providers

from mediator.dependency_injector.arguments import Missing, arguments_for, candidates_among
from mediator.dependency_injector.declared import Named, check_instance, declared_providers, provided_classes, target_of
from mediator.dependency_injector.packages import Contents, contents_of
from mediator.dependency_injector.roles import roles_of
from mediator.errors import ContainerError, Problem, ProviderNotFoundError

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class _Reading:
    """What a scan has found while its container held certain providers."""

    declared: tuple[Any, ...]
    factories: dict[type, Any]
    missing: dict[type, Sequence[Missing]]


class HandlerScan(providers.Dependency[tuple[type, ...]]):
    """Gives a provider to every handler in some packages, where it stands in a container.

        class AppContainer(containers.DeclarativeContainer):
            unit_of_work = Scoped(SqlAlchemyUnitOfWork, engine)
            mediator = MediatorProvider()
            students = providers.Factory(StudentRepository, unit_of_work)
            handlers = HandlerScan("shop.students", "shop.billing")

    Found are handlers of every kind, functions decorated with `as_handler` or `as_sync_handler`, and what behaviors work
    with: validators, authorizers, processors. They are found in the module that defines them, also inside its classes;
    bases that others complete, and generic ones, are not for use and left out. The order is that of the packages as
    given, then of the names of modules, then of the definitions in a module. Left out is also what the container makes by
    a declared provider, alone or inside another one, and what a scan before this one or in a nested container has found.

    Each gets a `Factory`, whose arguments are the named providers of the container, nested ones included, that give what
    the parameters of its constructor are annotated with: that class or one derived from it. A parameter with a default
    keeps it when nothing gives that. What cannot be chosen is in the report of `validate`.

    Modules are imported when the container is validated or its mediator is first asked for, and not before. Calling the
    scan gives the classes; `container.handlers[EnrollStudentHandler]` is the provider of one, which can be overridden.

    Args:
        *packages: Names of packages, with all below them, and of modules.
        exclude: Names of packages and modules that are not to be imported, and classes or their names
            (`"shop.students.enroll.EnrollStudentHandler"`) that are not to be found.

    Calling it or asking for a provider raises:
        ContainerError: The container is a class, not an instance; or a scanned module asks for it while it is imported.
        ProviderNotFoundError: The class was not found.
    """

    # `Dependency` is what a container tells who its parent is, as for the provider of the mediator.

    def __init__(self, *packages: str, exclude: Iterable[str | Callable[..., object]] = ()) -> None:
        base: Any = super()
        base.__init__(tuple)
        self._packages = packages
        given = (exclude,) if isinstance(exclude, str) else exclude
        self._exclude = tuple(each if isinstance(each, str) else _path(each) for each in given)
        self._contents: Contents | None = None
        self._importing: int | None = None
        self._factories: dict[type, Any] = {}
        self._reading: _Reading | None = None

    def __deepcopy__(self, memo: Any) -> Any:
        known = memo.get(id(self))
        if known is not None:
            return known
        base: Any = super()
        copied = base.__deepcopy__(memo)
        copied._packages, copied._exclude = self._packages, self._exclude  # noqa: SLF001 - a copy of this class
        return copied

    @property
    def is_defined(self) -> bool:
        """Always: a scan needs nobody to provide it."""
        return True

    @property
    def related(self) -> Iterator[Any]:
        """The providers that it has made so far."""
        yield from self._factories.values()
        base: Any = super()
        yield from base.related

    def override(self, provider: Any) -> Any:
        """Refused: replace a single handler, or the packages in a container derived from this one.

        Raises:
            ContainerError: Always.
        """
        text = (
            "A scan cannot be replaced as a whole. Override one of its handlers, "
            "`container.handlers[EnrollStudentHandler].override(...)`, or declare another scan in a derived container."
        )
        raise ContainerError(provider, text)

    def __call__(self, *_args: Any, **_kwargs: Any) -> tuple[type, ...]:  # type: ignore[override]  # the stub overloads it
        """The classes that it gives providers to; see the class for what it raises."""
        return tuple(self._read().factories)

    def __getitem__(self, cls: Callable[..., T]) -> providers.Factory[T]:
        """The provider of a class or of a decorated function; see the class for what it raises."""
        factories: dict[Any, Any] = self._read().factories
        if cls not in factories:
            name = getattr(cls, "__name__", str(cls))
            raise ProviderNotFoundError(
                name, difflib.get_close_matches(name, [each.__name__ for each in factories], n=1)
            )
        found: providers.Factory[T] = factories[cls]
        return found

    def named(self, label: str) -> Iterator[Named]:
        """The providers, each with its label.

        Args:
            label: That of the scan: `container.handlers`.
        """
        factories = self._read().factories
        for cls, factory in factories.items():
            yield f"{label}[{_name(cls, factories)}]", factory

    def problems(self, label: str) -> Iterator[Problem]:
        """What could not be imported, and what is missing.

        Args:
            label: That of the scan.
        """
        for name, text in self._found().faults:
            yield Problem(label, name, text)
        reading = self._read()
        for cls, missing in reading.missing.items():
            for each in missing:
                where = f"{label}[{_name(cls, reading.factories)}]"
                yield Problem(where, cls.__name__, each.text(cls, label.rpartition(".")[0]))

    def _found(self) -> Contents:
        """What is in the packages. They are imported once; what was faulty stays so."""
        if self._contents is None:
            if self._importing == threading.get_ident():
                text = (
                    "A module asks for the container's mediator while it is imported because the container scans it. Ask "
                    "for it in a function, or exclude the module from the scan."
                )
                raise ContainerError(self._container, text)
            self._importing = threading.get_ident()
            try:
                self._contents = contents_of(self._packages, self._exclude)
            finally:
                self._importing = None
        return self._contents

    @property
    def _container(self) -> Any:
        provider: Any = self
        return provider.parent

    def _read(self) -> _Reading:
        """What is found, anew when the container has other providers than it had."""
        check_instance(self._container)
        declared = tuple(declared_providers(self._container))
        held = tuple((*each, target_of(each[1])) for each in declared)
        if self._reading is None or self._reading.declared != held:
            taken = set(_taken(declared, self))
            candidates = candidates_among(declared)
            factories: dict[type, Any] = {}
            missing: dict[type, Sequence[Missing]] = {}
            for cls in self._found().classes:
                if cls not in taken:
                    arguments = arguments_for(cls, candidates)
                    factories[cls] = self._factory(cls, arguments.args, arguments.kwargs)
                    missing[cls] = arguments.missing
            self._reading = _Reading(held, factories, missing)
        return self._reading

    def _factory(self, cls: type, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """The provider of a class: always the same one, which may be overridden."""
        factory = self._factories.setdefault(cls, providers.Factory(cls))
        factory.set_args(*args)
        factory.set_kwargs(**kwargs)
        return factory


def _taken(declared: Sequence[Named], scan: HandlerScan) -> Iterator[type]:
    """The classes that a container makes without a scan: by providers, inside others, or by other scans."""
    earlier = True
    waiting: list[Any] = []
    for name, provider in declared:
        if provider is scan:
            earlier = False
        elif isinstance(provider, HandlerScan):
            yield from provider() if earlier or "." in name else ()
        elif any(cls is not None and roles_of(cls) for cls in provided_classes(provider)):
            waiting.append(provider)
    seen: set[Any] = set()
    for provider in waiting:  # grows while it is walked
        yield from (cls for cls in provided_classes(provider) if cls is not None)
        inside = set(provider.related) - {provider, *provider.overridden} - seen
        seen |= inside
        waiting += [each for each in inside if not isinstance(each, HandlerScan)]


def _path(cls: Callable[..., object]) -> str:
    return f"{cls.__module__}.{cls.__qualname__}"


def _name(cls: type, others: Iterable[type]) -> str:
    """The name of a class, with its module where another one has the same."""
    alike = [each for each in others if each.__qualname__ == cls.__qualname__]
    return cls.__qualname__ if len(alike) == 1 else _path(cls)
