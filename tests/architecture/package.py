"""The package under test: its files, its modules and its errors."""

import functools
import importlib
import inspect
import pkgutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

import mediator
from mediator import MediatorError

PACKAGE = Path(mediator.__file__).parent
ROOT = PACKAGE.parent
FILES = sorted(PACKAGE.rglob("*.py"))


def label(file: Path) -> str:
    """Return the path of a file inside the package, as it is shown in test ids."""
    return file.relative_to(PACKAGE).as_posix()


def modules() -> list[ModuleType]:
    """Return every module of the package."""
    names = [info.name for info in pkgutil.walk_packages(mediator.__path__, "mediator.")]
    return [mediator, *(importlib.import_module(name) for name in names if not name.endswith("__main__"))]


def errors() -> list[type[MediatorError]]:
    """Return every error class of the package, including base classes, in the order of their names."""
    modules()
    found = {cls for cls in (MediatorError, *_subclasses(MediatorError)) if cls.__module__.split(".")[0] == "mediator"}
    return sorted(found, key=lambda cls: cls.__name__)


def _subclasses(cls: type[MediatorError]) -> Iterator[type[MediatorError]]:
    for child in cls.__subclasses__():
        yield child
        yield from _subclasses(child)


def public_names() -> list[tuple[ModuleType, str]]:
    """Return each module with each name in its `__all__`."""
    return [(module, name) for module in modules() for name in getattr(module, "__all__", ())]


def needs_docstring(value: object) -> bool:
    """Return whether a public object is a class or a function of the package."""
    ours = getattr(value, "__module__", "").split(".")[0] == "mediator"
    return ours and (inspect.isclass(value) or inspect.isroutine(value))


def rule_for(parameter: str, things: Sequence[Any], name: Callable[[Any], str]) -> Callable[[Any], Any]:
    """Make one test that checks a rule for many things. The failure lists all things that break the rule.

    Args:
        parameter: The parameter of the test that takes one thing.
        things: The things to check.
        name: Returns the name of one thing for the failure.
    """

    def decorate(test: Callable[..., None]) -> Callable[..., None]:
        @functools.wraps(test)
        def for_each(**fixtures: Any) -> None:
            broken: dict[str, str] = {}
            for thing in things:
                try:
                    test(**{parameter: thing}, **fixtures)
                except AssertionError as failure:
                    broken[name(thing)] = str(failure)
            if broken:
                pytest.fail("\n".join(f"{each}: {why}" for each, why in broken.items()))

        others = [each for each in inspect.signature(test).parameters.values() if each.name != parameter]
        vars(for_each)["__signature__"] = inspect.Signature(others)
        return for_each

    return decorate
