"""What holds for every error of the package."""

import collections.abc
import dataclasses
import inspect
import re
import types
import typing
from typing import Any

import pytest

from mediator import MediatorError
from tests.architecture.package import ROOT, errors

SECTIONS = re.findall(r"^## (\w+)$", (ROOT / "docs" / "errors.md").read_text(), re.MULTILINE)
SAMPLES: dict[Any, Any] = {
    str: "some text",
    int: 3,
    float: 1.5,
    bool: True,
    bytes: b"bytes",
    type: dict,
    type[Any]: dict,
    Any: 7,
    object: 7,
}

each_error = pytest.mark.parametrize("error", errors(), ids=lambda error: error.__name__)


def sample(annotation: Any) -> Any:
    """Something of a type."""
    if annotation in SAMPLES:
        return SAMPLES[annotation]
    origin, arguments = typing.get_origin(annotation) or annotation, typing.get_args(annotation)
    if arguments and (origin is types.UnionType or not isinstance(origin, type)):
        return sample(arguments[0])
    if issubclass(origin, collections.abc.Collection):
        return (sample(arguments[0]),)
    if issubclass(origin, BaseException):
        return ValueError("some reason")
    return make(origin) if dataclasses.is_dataclass(origin) else origin()


def make(cls: Any) -> Any:
    """An instance of a dataclass with something in every field."""
    hints = typing.get_type_hints(cls)
    return cls(**{field.name: sample(hints[field.name]) for field in dataclasses.fields(cls) if field.init})


@each_error
def test_an_error_renders_itself_from_its_objects(error: type[MediatorError]):
    made = make(error) if dataclasses.is_dataclass(error) else error("some text")
    assert str(made).strip()
    assert "object at 0x" not in str(made)
    assert repr(made) == f"{error.__name__}({str(made)!r})"


@each_error
def test_an_error_renders_itself_with_nothing_optional(error: type[MediatorError]):
    if not dataclasses.is_dataclass(error):
        return
    hints = typing.get_type_hints(error)
    missing = dataclasses.MISSING
    required = [f for f in dataclasses.fields(error) if f.default is missing and f.default_factory is missing]
    assert str(error(**{field.name: sample(hints[field.name]) for field in required})).strip()


@each_error
def test_an_error_has_a_docstring_of_its_own(error: type[MediatorError]):
    assert inspect.cleandoc(error.__dict__["__doc__"] or "")
    assert not error.__doc__.startswith(f"{error.__name__}(")


@each_error
def test_an_error_has_a_section_in_the_documentation(error: type[MediatorError]):
    assert SECTIONS.count(error.__name__) == 1


def test_the_documentation_describes_no_error_that_does_not_exist():
    assert set(SECTIONS) == {error.__name__ for error in errors()}


def test_error_names_are_unique():
    names = [error.__name__ for error in errors()]
    assert len(names) == len(set(names))
