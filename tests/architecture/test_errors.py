"""Rules for every error of the package."""

import collections.abc
import copy
import dataclasses
import inspect
import multiprocessing
import pickle
import re
import threading
import types
import typing
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from typing import Any

import pytest
from dependency_injector import providers

import mediator.errors
from mediator import MediatorError
from mediator.errors import AfterCommitError, CommittedError, ContainerError, NotPickled, RolledBackError
from tests.architecture.package import ROOT, errors, rule_for

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

each_error = rule_for("error", errors(), lambda error: error.__name__)


def sample(annotation: Any) -> Any:
    """Return a value of a type."""
    if annotation in SAMPLES:
        return SAMPLES[annotation]
    origin, arguments = typing.get_origin(annotation) or annotation, typing.get_args(annotation)
    if arguments and (origin is types.UnionType or not isinstance(origin, type)):
        return sample(arguments[0])
    if issubclass(origin, collections.abc.Mapping):
        return {sample(arguments[0]): sample(arguments[1])}
    if issubclass(origin, collections.abc.Collection):
        return (sample(arguments[0]),)
    if issubclass(origin, BaseException):
        return ValueError("some reason")
    return make(origin) if dataclasses.is_dataclass(origin) else origin()


def make(cls: Any) -> Any:
    """Return an instance of a dataclass with a value in every field."""
    hints = typing.get_type_hints(cls)
    return cls(**{field.name: sample(hints[field.name]) for field in dataclasses.fields(cls) if field.init})


@each_error
def test_the_text_of_an_error_is_built_from_its_fields(error: type[MediatorError]):
    made = make(error) if dataclasses.is_dataclass(error) else error("some text")
    assert str(made).strip()
    assert "object at 0x" not in str(made)
    assert repr(made) == f"{error.__name__}({str(made)!r})"


@each_error
def test_the_text_of_an_error_needs_no_optional_field(error: type[MediatorError]):
    if not dataclasses.is_dataclass(error):
        return
    hints = typing.get_type_hints(error)
    missing = dataclasses.MISSING
    given = [f for f in dataclasses.fields(error) if f.init]
    required = [f for f in given if f.default is missing and f.default_factory is missing]
    assert str(error(**{field.name: sample(hints[field.name]) for field in required})).strip()


@each_error
def test_an_error_has_its_own_docstring(error: type[MediatorError]):
    assert inspect.cleandoc(error.__dict__["__doc__"] or "")
    assert not error.__doc__.startswith(f"{error.__name__}(")


@each_error
def test_an_error_has_a_section_in_the_documentation(error: type[MediatorError]):
    assert SECTIONS.count(error.__name__) == 1


def drawn_tree() -> list[tuple[str, str]]:
    """Return the classes in the tree of the docstring of `mediator.errors`, in order, each with its base class there."""
    lines = re.findall(r"^ {4}( *)(\w+Error|RetryLater)(?: {2,}\S.*)?$", mediator.errors.__doc__ or "", re.MULTILINE)
    above: dict[int, str] = {}
    drawn: list[tuple[str, str]] = []
    for indent, name in lines:
        above[len(indent)] = name
        drawn.append((name, above.get(len(indent) - 4, "Exception")))
    return drawn


def test_the_package_draws_the_tree_of_its_errors():
    ours = [error for error in errors() if error.__module__.startswith("mediator.errors.")]
    assert sorted(drawn_tree()) == sorted((error.__name__, error.__bases__[0].__name__) for error in ours)


def test_the_documentation_lists_the_errors_in_the_order_of_the_tree():
    outside = [error.__name__ for error in errors() if not error.__module__.startswith("mediator.errors.")]
    assert [*(name for name, _ in drawn_tree()), *outside] == SECTIONS


def test_error_names_are_unique():
    names = [error.__name__ for error in errors()]
    assert len(names) == len(set(names))


COPIES: dict[str, Callable[[Any], Any]] = {
    "copy": copy.copy,
    "deepcopy": copy.deepcopy,
    **{
        f"pickle {n}": lambda error, n=n: pickle.loads(pickle.dumps(error, n))
        for n in range(pickle.HIGHEST_PROTOCOL + 1)
    },
}

each_way = pytest.mark.parametrize("copied", COPIES.values(), ids=COPIES)


def made_in_every_way(error: type[MediatorError]) -> Iterator[MediatorError]:
    """Return errors of a class, made by keywords and by positions; base classes with and without arguments."""
    if not dataclasses.is_dataclass(error):
        yield from (error("some text"), error(), error("two", 2))
        return
    whole = make(error)
    given = {field: getattr(whole, field.name) for field in dataclasses.fields(error) if field.init}
    named = {field.name: value for field, value in given.items() if field.kw_only}
    yield from (whole, error(*(value for field, value in given.items() if not field.kw_only), **named))


def compared(error: BaseException) -> tuple[Any, ...]:
    """Return the parts of an error that must be equal in a copy."""
    shown = {name: repr(value) for name, value in vars(error).items()}
    if isinstance(error, OSError | ImportError):
        shown |= {name: repr(getattr(error, name, None)) for name in ("name", "path", "errno", "strerror", "filename")}
    return type(error), str(error), repr(error), repr(error.args), shown


@each_way
@each_error
def test_an_error_can_be_copied_and_pickled(error: type[MediatorError], copied: Callable[[Any], Any]):
    for made in made_in_every_way(error):
        made.add_note("where it was")
        try:
            raise made from ValueError("the cause")
        except MediatorError:
            again = copied(made)
        assert again is not made
        assert compared(again) == compared(made)
        assert again.__notes__ == ["where it was"]
        assert (again.__cause__, again.__context__, again.__traceback__) == (None, None, None)


def test_every_error_crosses_a_process_pool():
    wanted = [made for error in errors() for made in made_in_every_way(error)]
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        for made, came in zip(wanted, pool.map(same, wanted), strict=True):
            assert compared(came) == compared(made)
        for made in wanted[:3]:
            with pytest.raises(type(made)) as caught:
                pool.submit(fail, made).result()
            assert str(caught.value) == str(made)


def same(error: MediatorError) -> MediatorError:
    return error


def fail(error: MediatorError) -> None:
    raise error


class Declined(Exception):  # noqa: N818
    """An error that cannot be unpickled, like many errors of other libraries."""

    def __init__(self, *, code: int) -> None:
        super().__init__(f"declined with {code}")
        self.code = code


class Renamed(MediatorError, OSError):  # noqa: N818
    """An error class of an application, with its own constructor."""

    def __init__(self, *, code: int) -> None:
        super().__init__(f"declined with {code}")
        self.code = code


@dataclasses.dataclass(frozen=True, slots=True)
class Frozen(MediatorError):  # noqa: N818
    code: int


@each_way
@pytest.mark.parametrize("made", [Renamed(code=3), Frozen(4)], ids=repr)
def test_a_derived_error_of_an_application_can_be_copied_too(made: Any, copied: Callable[[Any], Any]):
    again = copied(made)
    assert (type(again), again.args, again.code, repr(again)) == (type(made), made.args, made.code, repr(made))


def unpicklable() -> dict[str, Any]:
    @dataclasses.dataclass
    class Local:
        name: str = "secret"

    frame = inspect.currentframe()
    assert frame is not None
    return {
        "Local": Local(),
        "type": Local,
        "lock": threading.Lock(),
        "Singleton": providers.Singleton(lambda: 1),
        "frame": frame,
    }


@pytest.mark.parametrize("what", unpicklable())
@each_error
def test_an_unpicklable_field_of_an_error_is_replaced_by_its_type_name_and_the_text_is_unchanged(
    error: type[MediatorError], what: str
):
    if not dataclasses.is_dataclass(error):
        return
    value, hints = unpicklable()[what], typing.get_type_hints(error)
    made = make(error)
    for name in [each.name for each in dataclasses.fields(error) if hints[each.name] in (object, Any, type)]:
        if what == "type" or hints[name] is not type:
            setattr(made, name, value)
    again = pickle.loads(pickle.dumps(made))
    assert (type(again), str(again), repr(again)) == (type(made), str(made), repr(made))
    for field in dataclasses.fields(error):
        if getattr(made, field.name) is value:
            assert getattr(again, field.name) == NotPickled("Local" if what == "type" else type(value).__name__)
            assert getattr(copy.copy(made), field.name) is value
            copy.deepcopy(made)


def test_nested_errors_are_pickled_with_their_fields():
    inner = RolledBackError("t-1", threading.Lock(), Declined(code=3))
    group = ExceptionGroup("several", [inner, Declined(code=4), KeyError("k")])
    response: dict[str, Any] = {"kept": [1, threading.Lock()]}
    outer = AfterCommitError("t-2", response, ["x", threading.Lock()], (inner, group))
    response["itself"] = outer
    again = pickle.loads(pickle.dumps(outer))
    assert str(again) == str(outer)
    assert again.response == {"kept": [1, NotPickled("lock")], "itself": NotPickled("AfterCommitError")}
    assert again.notifications == ["x", NotPickled("lock")]
    first, second = again.errors
    assert str(first) == str(inner)
    assert (first.message, repr(first.cause)) == (NotPickled("lock"), repr(MediatorError(repr(inner.cause))))
    assert [type(each) for each in second.exceptions] == [RolledBackError, MediatorError, KeyError]


def test_pickling_nested_errors_takes_linear_time():
    error = CommittedError("t", None)
    for _ in range(40):
        error = CommittedError("t", [error, error.response])
    pickle.loads(pickle.dumps(ContainerError(error, "text")))


def test_an_error_whose_cause_has_no_repr_still_has_a_text():
    class Mute(Exception):  # noqa: N818
        def __repr__(self) -> str:
            raise ValueError

    text = str(RolledBackError("t-1", "Enroll", Mute()))
    assert "Enroll failed in it: Mute." in text
