"""HandlerScan: finds the handlers in packages, and makes a provider for each, with arguments chosen by type."""

import builtins
import difflib
import importlib
import inspect
import pkgutil
import threading
import typing
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any, TypeVar

from dependency_injector import providers

from mediator.dependency_injector import provider_kinds as kinds
from mediator.dependency_injector.declared import (
    Named,
    check_instance,
    declared_providers,
    distinct,
    hints_of,
    is_for_use,
    path_of,
    provided_classes,
    roles_of,
    target_of,
)
from mediator.errors import ContainerError, Problem, not_found
from mediator.handlers import UNIONS, arguments_fit, class_of, spelled, type_arguments
from mediator.mediator import Mediator
from mediator.messages import Publisher, Sender
from mediator.printable import message_of, place_of

VARIADIC = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
_MEDIATOR_INTERFACES = (Sender, Publisher)


@dataclass(frozen=True, slots=True)
class Candidate:
    """A named provider, and the classes of the objects that it may return."""

    name: str
    provider: Any
    classes: tuple[type, ...]


@dataclass(frozen=True, slots=True)
class Missing:
    """A parameter for which there is no provider, or more than one.

    Attributes:
        reason: Why no argument could be chosen.
        candidates: The providers that fit, if several providers fit; empty if no provider fits.
        addable: Whether a new provider of the needed class would solve the problem.
    """

    name: str
    reason: str
    candidates: Sequence[Candidate] = ()
    addable: bool = False

    def text(self, cls: type, path: str) -> str:
        """Return a text that says what is wrong and what to do about it."""
        names = [
            f"{path}.{each.name} ({' or '.join(cls.__name__ for cls in each.classes)})" for each in self.candidates
        ]
        reason = f"{self.reason}: {', '.join(names)}" if names else self.reason
        declare = "Add a provider, or declare" if self.addable else "Declare"
        return f"{reason}. {declare} the class itself: `providers.Factory({cls.__name__}, {self.name}=...)`."


def candidates_among(declared: Iterable[Named]) -> list[Candidate]:
    """Return the providers whose classes are known, each once."""
    found: list[Candidate] = []
    for name, provider in distinct(declared):
        classes = provided_classes(provider)
        known = tuple(dict.fromkeys(cls for cls in classes if cls is not None))
        if known and None not in classes:
            found.append(Candidate(name, provider, known))
    return found


def arguments_for(
    cls: type, candidates: Sequence[Candidate]
) -> tuple[Sequence[Any], dict[str, Any], Sequence[Missing]]:
    """Choose a provider for each parameter of a class's constructor, by the annotation of the parameter.

    Return the positional-only arguments, the keyword arguments, and the parameters for which no provider could be chosen.

    A provider fits if its object is of the annotated class or of a class derived from it. Exactly one provider must fit.
    If no provider fits, a parameter with a default keeps the default. No provider is chosen for a built-in class such as
    `str`, because the class does not tell what the argument is for.
    """
    args: list[Any] = []
    kwargs: dict[str, Any] = {}
    missing: list[Missing] = []
    hints = hints_of(cls)
    for parameter in inspect.signature(cls).parameters.values():
        chosen = _choose(parameter, hints, candidates)
        if isinstance(chosen, Missing):
            missing.append(chosen)
        elif parameter.kind is parameter.POSITIONAL_ONLY:  # without the default, later arguments would move up
            args.append(chosen.provider if chosen else parameter.default)
        elif chosen is not None:
            kwargs[parameter.name] = chosen.provider
    return args, kwargs, missing


def _choose(
    parameter: inspect.Parameter, hints: dict[str, Any], candidates: Sequence[Candidate]
) -> Candidate | Missing | None:
    """Choose the provider for a parameter; `None` when the parameter keeps its default, or is variadic."""
    if parameter.kind in VARIADIC:
        return None
    name = parameter.name
    if name not in hints and parameter.annotation is not parameter.empty:
        reason = "they may use a name that the module of the class does not define"
        return Missing(name, f"needs {name!r}, but the annotations of the constructor cannot be read: {reason}")
    wanted = hints.get(name, Any)
    found = _meant(wanted, candidates)
    if len(found) == 1:
        return found[0]
    if found:
        return Missing(name, f"needs one {spelled(wanted)} as {name!r}, but {len(found)} providers give one", found)
    return _not_given(name, wanted) if parameter.default is parameter.empty else None


def _not_given(name: str, wanted: Any) -> Missing:
    classes = [cls for member in _members(wanted) if (cls := _choosing_class(member)) is not None]
    if not classes:
        annotation = "no annotation" if wanted is Any else f"the annotation {spelled(wanted)}"
        return Missing(name, f"needs {name!r}, but no provider can be chosen: the parameter has {annotation}")
    is_protocol = any(getattr(cls, "_is_protocol", False) for cls in classes)
    hint = " (only a class that derives from the protocol counts)" * is_protocol
    return Missing(name, f"needs a {spelled(wanted)} as {name!r}, which no named provider gives{hint}", addable=True)


def _meant(wanted: Any, candidates: Sequence[Candidate]) -> list[Candidate]:
    found = [each for each in candidates if any(_gives(each, member) for member in _members(wanted))]
    own = [each for each in found if "." not in each.name]
    # A nested container may have a mediator, too. A handler gets the mediator of the container that declares the scan.
    return own if own and all(each.classes == (Mediator,) for each in found) else found


def _gives(candidate: Candidate, wanted: Any) -> bool:
    """Return whether all classes of a provider derive from the wanted class.

    A class may have the methods of a protocol by chance. Only a class that derives from the protocol counts.
    """
    cls = _choosing_class(wanted)
    if cls is None:
        return False
    if cls in _MEDIATOR_INTERFACES and candidate.classes == (Mediator,):
        return True
    called = typing.get_args(candidate.provider.provides) if isinstance(candidate.provider, kinds.CALLING) else ()
    return all(
        cls in given.__mro__ and arguments_fit(type_arguments(given, cls) or called, typing.get_args(wanted))
        for given in candidate.classes
    )


def _members(wanted: Any) -> tuple[Any, ...]:
    return typing.get_args(wanted) if typing.get_origin(wanted) in UNIONS else (wanted,)


def _choosing_class(wanted: Any) -> type | None:
    """Return the class of an annotation; `None` for a built-in or unknown class, by which no provider is chosen."""
    cls = class_of(wanted)
    return cls if cls is not None and cls.__module__ != builtins.__name__ else None


Fault = tuple[str, str]
"""The name of a module or class, and a text that says what is wrong with it."""


@dataclass(frozen=True, slots=True)
class Contents:
    """The classes that were found in packages, in order, and the faults of the packages and of `exclude`."""

    classes: tuple[type, ...]
    faults: tuple[Fault, ...]


def contents_of(packages: Sequence[str], exclude: Sequence[str]) -> Contents:
    """Import packages with all their modules, and return the handlers and collaborators that are defined in them.

    Modules called `__main__` are left out, since importing such a module runs the program. `exclude` names further
    modules and classes that are left out.
    """
    faults: list[Fault] = (
        [] if packages else [("HandlerScan", 'names no package. Name at least one: `HandlerScan("shop.students")`.')]
    )
    found: dict[type, None] = {}
    exclusion = _Exclusion(exclude)
    for package in packages:
        known = len(faults)
        modules = _modules(package, packages, exclusion, faults)
        classes = [cls for module in modules for cls in _defined_in(module, exclusion)]
        found |= dict.fromkeys(classes)
        if not classes and len(faults) == known:
            faults.append((package, "contains no handler, and no collaborator of a behavior."))
    if not faults:  # a class that seems missing may be in a module that could not be imported
        faults += [(name, "is named in `exclude`, but there is no such module or class.") for name in exclusion.unused]
    return Contents(tuple(found), tuple(faults))


class _Exclusion:
    """The names of excluded modules and classes. Everything below an excluded module or class is excluded, too.

    `unused` has the names that have not excluded anything so far.
    """

    def __init__(self, names: Sequence[str]) -> None:
        self._names = names
        self.unused = list(names)

    def leaves_out(self, name: str) -> bool:
        """Return whether a module or class is excluded. The names that exclude it are removed from `unused`."""
        if not any(_is_below(name, each) for each in self._names):
            return False
        self.unused = [each for each in self.unused if not _is_below(name, each) and not _is_below(each, name)]
        return True


def _is_below(name: str, other: str) -> bool:
    return f"{name}.".startswith(f"{other}.")


def _modules(name: str, named: Sequence[str], exclusion: _Exclusion, faults: list[Fault]) -> Iterator[ModuleType]:
    """Yield a module and, if it is a package, all modules below it. A failed import becomes a fault."""
    if exclusion.leaves_out(name):
        return
    try:
        module = importlib.import_module(name)
    except (Exception, SystemExit) as error:  # a module may be a script that exits, which must not end this process
        place = place_of(error)
        where = f" ({place[0]}, line {place[1]})" if place else ""
        faults.append((name, f"cannot be imported: {type(error).__name__}: {message_of(error)}{where}."))
        return
    yield module
    folders = list(getattr(module, "__path__", ()))
    for child in sorted(_folders_without_init(folders)):
        path = f"{name}.{child}"
        if not exclusion.leaves_out(path) and not any(_is_below(each, path) for each in named):
            text = (
                "is a folder with modules and without `__init__.py`, so nothing in it would be found. Add the file, name "
                f'the folder too (`HandlerScan("{name}", "{path}")`), or exclude it.'
            )
            faults.append((path, text))
    for child in sorted(info.name for info in pkgutil.iter_modules(folders)):
        if child != "__main__":
            yield from _modules(f"{name}.{child}", named, exclusion, faults)


def _folders_without_init(folders: Iterable[str]) -> set[str]:
    """Return the names of subfolders that contain modules, but no `__init__.py`, so that `pkgutil` ignores them."""
    return {
        folder.name
        for path in map(Path, folders)
        for folder in (path.iterdir() if path.is_dir() else ())
        if folder.is_dir() and folder.name.isidentifier() and folder.name != "__pycache__"
        if not (folder / "__init__.py").exists() and any(folder.rglob("*.py"))
    }


def _defined_in(module: ModuleType, exclusion: _Exclusion) -> Iterator[type]:
    for cls in dict.fromkeys(_classes_in(module, module.__name__)):
        if is_for_use(cls) and not exclusion.leaves_out(f"{cls.__module__}.{cls.__qualname__}"):
            yield cls


def _classes_in(holder: Any, module: str, prefix: str = "") -> Iterator[type]:
    """Yield the classes that are defined in a module, including classes inside its classes."""
    values: list[Any] = list(holder.__dict__.values())
    for value in values:
        if isinstance(value, type) and value.__module__ == module and value.__qualname__.startswith(prefix):
            yield value
            yield from _classes_in(value, module, f"{value.__qualname__}.")


T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class _Reading:
    """The result of a scan. It is valid as long as the container has the providers in `declared`."""

    declared: tuple[Any, ...]
    factories: dict[type, Any]
    missing: dict[type, Sequence[Missing]]


class HandlerScan(providers.Dependency[tuple[type, ...]]):
    """Makes a provider for every handler in the given packages, in the container that declares the scan.

        class AppContainer(containers.DeclarativeContainer):
            unit_of_work = Scoped(SqlAlchemyUnitOfWork, engine)
            mediator = MediatorProvider()
            students = providers.Factory(StudentRepository, unit_of_work)
            handlers = HandlerScan("shop.students", "shop.billing")

    The scan finds handlers of every kind, functions decorated with `as_handler` or `as_sync_handler`, and the
    collaborators of behaviors (validators, authorizers and processors). A handler is found in the module that defines
    the handler, even inside a class. Found classes are in the order of the given packages. Within a package, the
    classes are sorted by the names of modules, and within a module by the order of definition.

    The scan leaves out:

    - generic classes, and abstract classes that are meant to be derived from;
    - classes for which the container declares a provider, alone or inside another provider;
    - classes that an earlier scan, or a scan in a nested container, has found.

    Each class gets a `Factory`. For each parameter of the constructor, the scan chooses the named provider that
    provides the annotated class or a class derived from it. The provider may be in a nested container. A parameter with
    a default keeps the default when no provider fits. `validate` reports parameters for which no provider could be
    chosen.

    Modules are imported when the container is validated or its mediator is first resolved, not before. Calling the scan
    returns the classes; `container.handlers[EnrollStudentHandler]` is the provider of one class, and this provider
    can be overridden.

    Args:
        *packages: Names of modules and packages. A package is scanned with everything below it.
        exclude: Packages, modules and classes that are left out. Packages and modules are given as names, and are not
            imported. A class is given as an object or as a name (`"shop.students.enroll.EnrollStudentHandler"`).

    Calling the scan, or asking the scan for a provider, raises:
        ContainerError: The container is a class, not an instance; or a scanned module resolves the mediator or the scan
            while the module is being imported.
        NotFoundError: The scan has not found the class.
    """

    # The base is `Dependency`, because a container sets the `parent` of a dependency, and the scan needs its container.

    def __init__(self, *packages: str, exclude: Iterable[str | Callable[..., object]] = ()) -> None:
        base: Any = super()
        base.__init__(tuple)
        self._packages = packages
        given = (exclude,) if isinstance(exclude, str) else exclude
        self._exclude = tuple(each if isinstance(each, str) else path_of(each) for each in given)
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
        """Always true, since this dependency needs no provider from outside."""
        return True

    @property
    def related(self) -> Iterator[Any]:
        """The providers that the scan has made so far."""
        yield from self._factories.values()
        base: Any = super()
        yield from base.related

    def override(self, provider: Any) -> Any:
        """Raise an error, since only single handlers can be overridden.

        Raises:
            ContainerError: Always.
        """
        text = (
            "A scan cannot be replaced as a whole. Override one of its handlers, "
            "`container.handlers[EnrollStudentHandler].override(...)`, or declare another scan in a derived container."
        )
        raise ContainerError(provider, text)

    def __call__(self, *_args: Any, **_kwargs: Any) -> tuple[type, ...]:  # type: ignore[override]  # stub has overloads
        """Return the classes that the scan has found. The docstring of the class lists the errors."""
        return tuple(self._read().factories)

    def __getitem__(self, cls: Callable[..., T]) -> providers.Factory[T]:
        """Return the provider of a class or decorated function. The docstring of the class lists the errors."""
        factories: dict[Any, Any] = self._read().factories
        if cls not in factories:
            name = getattr(cls, "__name__", str(cls))
            nearest = difflib.get_close_matches(name, [each.__name__ for each in factories], n=1)
            raise not_found.no_provider(name, nearest)
        found: providers.Factory[T] = factories[cls]
        return found

    def named(self, label: str) -> Iterator[Named]:
        """Yield the providers that the scan has made, each with its label."""
        factories = self._read().factories
        for cls, factory in factories.items():
            yield f"{label}[{_name(cls, factories)}]", factory

    def problems(self, label: str) -> Iterator[Problem]:
        """Yield the faults of the scan, and the parameters for which no provider could be chosen."""
        for name, text in self._found().faults:
            yield Problem(label, name, text)
        reading = self._read()
        for cls, missing in reading.missing.items():
            for each in missing:
                where = f"{label}[{_name(cls, reading.factories)}]"
                yield Problem(where, cls.__name__, each.text(cls, label.rpartition(".")[0]))

    def _found(self) -> Contents:
        """Return the contents of the packages. The packages are imported at the first call only."""
        if self._contents is None:
            if self._importing == threading.get_ident():
                text = (
                    "A scanned module asks for the container's mediator while the scan imports the module. Ask for the "
                    "mediator in a function, or exclude the module from the scan."
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
        """Return the result of the scan, which is computed again when the providers of the container have changed."""
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
                    args, kwargs, missing[cls] = arguments_for(cls, candidates)
                    # A class keeps its provider object, even when the arguments change.
                    factory = factories[cls] = self._factories.setdefault(cls, providers.Factory(cls))
                    factory.set_args(*args)
                    factory.set_kwargs(**kwargs)
            self._reading = _Reading(held, factories, missing)
        return self._reading


def _taken(declared: Sequence[Named], scan: HandlerScan) -> Iterator[type]:
    """Yield the classes for which the container has a provider that `scan` has not made.

    Providers inside declared providers count, and so do the providers of earlier scans and of scans in nested containers.
    """
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
    for provider in waiting:  # the list grows during the loop
        yield from (cls for cls in provided_classes(provider) if cls is not None)
        inside = set(provider.related) - {provider, *provider.overridden} - seen
        seen |= inside
        waiting += [each for each in inside if not isinstance(each, HandlerScan)]


def _name(cls: type, others: Iterable[type]) -> str:
    """Return the name of a class, with its module if another class has the same name."""
    alike = [each for each in others if each.__qualname__ == cls.__qualname__]
    return cls.__qualname__ if len(alike) == 1 else path_of(cls)
