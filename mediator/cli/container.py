"""Container: loads the container that a command names as `module:name`, and matches names with labels of providers."""

import asyncio
import difflib
import importlib
import inspect
import sys
from collections.abc import Callable, Coroutine, Iterable
from contextlib import redirect_stdout
from pathlib import Path
from types import ModuleType
from typing import Any, TypeVar

from dependency_injector import containers

from mediator.cli.options import check_imported
from mediator.cli.work import CommandError
from mediator.printable import message_of, place_of

T = TypeVar("T")

_VARIADIC = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)


def load_container(target: str) -> Any:
    """Return the container of `module:name`. The name may stand for a container, a container class, or a function.

    The current directory is put on `sys.path`, so that an application need not be installed.
    """
    module_name, separator, name = target.partition(":")
    if not (separator and module_name and name):
        raise CommandError(f"{target!r} is not module:name, such as university.container:create.")
    if module_name.endswith(".py") or "/" in module_name:
        named = ".".join(Path(module_name.removesuffix(".py")).parts).strip("./")
        raise CommandError(f"{module_name!r} is a file; name the module: {named}:{name}.")
    module = _import(module_name)
    try:
        found = getattr(module, name)
    except AttributeError:
        raise CommandError(f"The module {module_name!r} has no {name!r}.{nearest(name, vars(module))}") from None
    except (Exception, SystemExit) as error:  # raised by a `__getattr__` in the module
        raise _failed(f"Getting {target!r}", error) from error
    return _container(target, found)


def nearest(name: str, known: Iterable[str]) -> str:
    """Return a sentence that suggests similar names, beginning with a space; empty when no name is similar."""
    lowered = {each.lower(): each for each in known}
    found = difflib.get_close_matches(name.lower(), lowered, n=2)
    return f" Did you mean {' or '.join(lowered[each] for each in found)}?" if found else ""


def is_called(label: str, name: str | None) -> bool:
    """Return whether a name is a provider's label or the last part of the label. The name `None` matches all labels."""
    return name in {None, label, label.rpartition(".")[2]}


def unknown(kind: str, name: str | None, labels: Iterable[str]) -> CommandError:
    """Return the error for a name that no provider of the given kind has. The text suggests similar names."""
    known = [label.rpartition(".")[2] for label in labels]
    return CommandError(f"The container has no {kind} {name!r}.{nearest(str(name), known)}")


def report_of(target: str, act: Callable[[Any], Coroutine[Any, Any, T]], packages: tuple[str, ...] = ()) -> T:
    """Load a container, and return the result of `act(container)`. What the application prints goes to standard error."""
    with redirect_stdout(sys.stderr):
        container = load_container(target)
        check_imported(packages)
        return asyncio.run(act(container))


def _import(name: str) -> ModuleType:
    folder = _current_directory()
    if folder not in sys.path:
        sys.path.insert(0, folder)
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{name}.".startswith(f"{error.name}."):
            raise _failed(f"Importing {name!r}", error) from error
        raise CommandError(f"The module {error.name!r} was not found in {folder} nor on sys.path.") from error
    except (Exception, SystemExit) as error:  # a user's module may raise anything
        raise _failed(f"Importing {name!r}", error) from error


def _current_directory() -> str:
    try:
        return str(Path.cwd())
    except OSError as error:
        text = f"The current directory cannot be read ({error.strerror}); change to the directory of the application."
        raise CommandError(text) from error


def _container(target: str, found: Any) -> Any:
    if isinstance(found, containers.Container):
        return found
    if not callable(found) or (inspect.isclass(found) and not issubclass(found, containers.Container)):
        raise _no_container(target, found)
    made = _call(target, found)
    if isinstance(made, containers.Container):
        return made
    if inspect.iscoroutine(made):
        made.close()
        raise CommandError(f"{target!r} is async; name a plain function that returns a container.")
    raise _no_container(f"{target}()", made)


def _call(target: str, factory: Callable[[], Any]) -> Any:
    try:
        parameters = inspect.signature(factory).parameters.values()
        required = [each.name for each in parameters if each.default is each.empty and each.kind not in _VARIADIC]
    except (TypeError, ValueError):
        required = []
    if required:
        raise CommandError(f"{target!r} needs arguments ({', '.join(required)}); name a factory that needs none.")
    try:
        return factory()
    except (Exception, SystemExit) as error:  # a user's factory may raise anything
        raise _failed(f"Calling {target!r}", error) from error


def _no_container(target: str, found: Any) -> CommandError:
    kind = f"the class {found.__name__}" if isinstance(found, type) else f"of type {type(found).__name__}"
    return CommandError(f"{target!r} is {kind}; name a container, a container class or a function that returns one.")


def _failed(action: str, error: BaseException) -> CommandError:
    place = place_of(error)
    where = f" at {place[0]}:{place[1]}" if place else ""
    return CommandError(f"{action} failed{where}: {type(error).__name__}: {message_of(error)}")
