"""Argument: what fills a parameter of a constructor, chosen by the parameter's type among the providers of a container."""

import builtins
import inspect
import types
import typing
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from mediator.dependency_injector import provider_kinds as kinds
from mediator.dependency_injector.annotations import hints_of
from mediator.dependency_injector.declared import Named, distinct, provided_classes
from mediator.handlers import arguments_fit, class_of, spelled, type_arguments
from mediator.mediator import Mediator
from mediator.sender import Publisher, Sender

_VARIADIC = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
_HALVES = (Sender, Publisher)
_UNIONS = (typing.Union, types.UnionType)


@dataclass(frozen=True, slots=True)
class Candidate:
    """A named provider, and the classes of what it may give.

    Attributes:
        name: The path to it from the container: `"billing.engine"`.
        provider: The provider.
        classes: Several when it is a `Selector`.
    """

    name: str
    provider: Any
    classes: tuple[type, ...]


@dataclass(frozen=True, slots=True)
class Missing:
    """A parameter for which there is no provider, or more than one.

    Attributes:
        name: The name of the parameter.
        reason: Why it could not be filled.
        candidates: The providers among which it cannot be told which one is meant.
        addable: Whether a provider of what is needed would do.
    """

    name: str
    reason: str
    candidates: Sequence[Candidate] = ()
    addable: bool = False

    def text(self, cls: type, path: str) -> str:
        """What is wrong and what to do about it.

        Args:
            cls: The class that cannot be made.
            path: The label of the container.
        """
        names = [
            f"{path}.{each.name} ({' or '.join(cls.__name__ for cls in each.classes)})" for each in self.candidates
        ]
        reason = f"{self.reason}: {', '.join(names)}" if names else self.reason
        declare = "Add one, or declare" if self.addable else "Declare"
        return f"{reason}. {declare} the class itself: `providers.Factory({cls.__name__}, {self.name}=...)`."


@dataclass(frozen=True, slots=True)
class Arguments:
    """What a constructor is called with, and what is missing.

    Attributes:
        args: By position, for parameters that are filled in no other way.
        kwargs: By name.
        missing: The parameters that could not be filled.
    """

    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    missing: tuple[Missing, ...]


def candidates_among(declared: Iterable[Named]) -> list[Candidate]:
    """The providers of which it is known what they give, each once."""
    found: list[Candidate] = []
    for name, provider in distinct(declared):
        classes = provided_classes(provider)
        known = tuple(dict.fromkeys(cls for cls in classes if cls is not None))
        if known and None not in classes:
            found.append(Candidate(name, provider, known))
    return found


def arguments_for(cls: type, candidates: Sequence[Candidate]) -> Arguments:
    """Choose a provider for each parameter of a class's constructor by the annotation of the parameter.

    A provider is meant if it gives the class of the annotation or one derived from it, and it must be the only one. A
    parameter with a default keeps that when there is none. Built-in classes choose nothing, for a `str` can be anything.
    """
    args: list[Any] = []
    kwargs: dict[str, Any] = {}
    missing: list[Missing] = []
    hints = hints_of(cls)
    for parameter in inspect.signature(cls).parameters.values():
        chosen = _choose(parameter, hints, candidates)
        if isinstance(chosen, Missing):
            missing.append(chosen)
        elif parameter.kind is parameter.POSITIONAL_ONLY:  # its default too, or the next one would take its place
            args.append(chosen.provider if chosen else parameter.default)
        elif chosen is not None:
            kwargs[parameter.name] = chosen.provider
    return Arguments(tuple(args), kwargs, tuple(missing))


def _choose(
    parameter: inspect.Parameter, hints: dict[str, Any], candidates: Sequence[Candidate]
) -> Candidate | Missing | None:
    """What fills a parameter; `None` when it keeps its default, or can do without."""
    if parameter.kind in _VARIADIC:
        return None
    name = parameter.name
    if name not in hints and parameter.annotation is not parameter.empty:
        return Missing(
            name, f"needs {name!r}, and its annotations cannot be read: they name what the module does not hold"
        )
    wanted = hints.get(name, Any)
    found = _meant(wanted, candidates)
    if len(found) == 1:
        return found[0]
    if found:
        return Missing(name, f"needs a {spelled(wanted)} as {name!r}, which {len(found)} providers give", found)
    return _not_given(name, wanted) if parameter.default is parameter.empty else None


def _not_given(name: str, wanted: Any) -> Missing:
    classes = [cls for member in _members(wanted) if (cls := _choosing_class(member)) is not None]
    if not classes:
        said = "no annotation" if wanted is Any else f"the annotation {spelled(wanted)}"
        return Missing(name, f"needs {name!r}, which has {said}, by which no provider can be chosen")
    hint = " (only a class that derives from the protocol counts)" * any(map(_is_protocol, classes))
    return Missing(name, f"needs a {spelled(wanted)} as {name!r}, which no named provider gives{hint}", addable=True)


def _is_protocol(cls: type) -> bool:
    return bool(getattr(cls, "_is_protocol", False))


def _meant(wanted: Any, candidates: Sequence[Candidate]) -> list[Candidate]:
    found = [each for each in candidates if any(_gives(each, member) for member in _members(wanted))]
    own = [each for each in found if "." not in each.name]
    # Nested containers may have mediators too. A handler gets that of the container in which it is found.
    return own if own and all(each.classes == (Mediator,) for each in found) else found


def _gives(candidate: Candidate, wanted: Any) -> bool:
    """Whether what a provider gives derives from what is wanted; what merely looks like it does not tell what is meant."""
    cls = _choosing_class(wanted)
    if cls is None:
        return False
    if cls in _HALVES and candidate.classes == (Mediator,):
        return True
    said = typing.get_args(candidate.provider.provides) if isinstance(candidate.provider, kinds.CALLING) else ()
    return all(
        cls in given.__mro__ and arguments_fit(type_arguments(given, cls) or said, typing.get_args(wanted))
        for given in candidate.classes
    )


def _members(wanted: Any) -> tuple[Any, ...]:
    return typing.get_args(wanted) if typing.get_origin(wanted) in _UNIONS else (wanted,)


def _choosing_class(wanted: Any) -> type | None:
    """The class of an annotation, if a provider can be chosen by it."""
    cls = class_of(wanted)
    return cls if cls is not None and cls.__module__ != builtins.__name__ else None
