"""ConformanceSuite: the base class of the suites. A suite tests whether an adapter keeps the promises of a port.

A suite is a class whose methods are test cases, one for each promise. The test module of an adapter subclasses the
suite, implements `opened`, and declares the capabilities of the adapter. Pytest collects the subclass. A case that needs an
undeclared capability is removed from the subclass. Pytest then neither runs nor reports the case. `cases()` lists the
remaining cases.
"""

import inspect
from collections.abc import Callable
from enum import Enum
from types import TracebackType
from typing import Any, ClassVar, Generic, TypeVar

_Case = TypeVar("_Case", bound=Callable[..., Any])
_Error = TypeVar("_Error", bound=BaseException)
_MARK = "__conformance_needs__"


class ConformanceSuite:
    """The base class of all suites.

    Attributes:
        capabilities: The optional abilities of the adapter. The subclass for an adapter declares this set, even if
            the set is empty. Without a declaration, all cases run.
    """

    capabilities: ClassVar[frozenset[Enum]]

    def __init_subclass__(cls) -> None:
        """Remove the cases that need an undeclared capability."""
        super().__init_subclass__()
        if not hasattr(cls, "capabilities"):
            return
        for name, case in inspect.getmembers(cls, inspect.isfunction):
            needed: frozenset[Enum] = getattr(case, _MARK, frozenset[Enum]())
            if not needed <= cls.capabilities:
                setattr(cls, name, None)

    @classmethod
    def cases(cls) -> tuple[str, ...]:
        """Return the names of the cases that run against the adapter, sorted."""
        return tuple(name for name, _ in inspect.getmembers(cls, inspect.isfunction) if name.startswith("test_"))


def needs(*capabilities: Enum) -> Callable[[_Case], _Case]:
    """Mark a case that only adapters with the given capabilities must pass."""

    def mark(case: _Case) -> _Case:
        setattr(case, _MARK, frozenset(capabilities))
        return case

    return mark


def undeclared(*_: object) -> Any:
    """Raise an error. This function stands in for an optional function that the adapter does not provide."""
    raise NotImplementedError("the adapter declares a capability, but does not provide the function for it")


class failing(Generic[_Error]):  # noqa: N801  (called like a function: `with failing(ParkedEventNotFoundError): ...`)
    """A context whose body must raise one of the given errors. The context yields a list with the raised error.

    An error of another class, or one whose message does not contain `text`, is raised unchanged.

    Args:
        errors: The expected classes.
        text: A text that the message of the raised error must contain.

    Raises:
        AssertionError: The body raised nothing.
    """

    def __init__(self, *errors: type[_Error], text: str = "") -> None:
        self._errors = errors
        self._text = text
        self._caught: list[_Error] = []

    def __enter__(self) -> list[_Error]:
        """Return the list to which the raised error will be added."""
        return self._caught

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None, /
    ) -> bool:
        """Catch an error of an expected class with the expected text."""
        if error is None:
            expected = " or ".join(each.__name__ for each in self._errors)
            raise AssertionError(f"expected {expected}, but nothing was raised")
        if isinstance(error, self._errors) and self._text in str(error):
            self._caught.append(error)
            return True
        return False
