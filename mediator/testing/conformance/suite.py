"""ConformanceSuite: the promises of one port as test cases, which run against any adapter that pytest is given.

A suite is a class with one method for each promise. The test module of an adapter subclasses it, says how the adapter
is opened and declares what the adapter is capable of. Pytest collects the subclass. A case that needs a capability
which the adapter does not declare is removed from the subclass: it is neither run nor skipped. `cases()` lists the
cases that are left.
"""

import inspect
from collections.abc import Callable
from enum import Enum
from types import TracebackType
from typing import Any, ClassVar, Generic, TypeVar

_Case = TypeVar("_Case", bound=Callable[..., Any])
_Error = TypeVar("_Error", bound=BaseException)


class ConformanceSuite:
    """The base class of all suites.

    Attributes:
        capabilities: What the adapter can do beyond what every adapter must do. The subclass of an adapter declares
            this set, even if it is empty. Without a declaration, all cases run.
    """

    capabilities: ClassVar[frozenset[Enum]]

    def __init_subclass__(cls) -> None:
        """Remove the cases that need more than the adapter declares."""
        super().__init_subclass__()
        if not hasattr(cls, "capabilities"):
            return
        for name, case in inspect.getmembers(cls, inspect.isfunction):
            if not _needs(case) <= cls.capabilities:
                setattr(cls, name, None)

    @classmethod
    def cases(cls) -> tuple[str, ...]:
        """Return the names of the cases that run against the adapter, sorted."""
        return tuple(name for name, _ in inspect.getmembers(cls, inspect.isfunction) if name.startswith("test_"))


def needs(*capabilities: Enum) -> Callable[[_Case], _Case]:
    """Mark a case that only adapters with these capabilities must pass."""

    def mark(case: _Case) -> _Case:
        setattr(case, _MARK, frozenset(capabilities))
        return case

    return mark


def undeclared(*_: object) -> Any:
    """Stand in for what an adapter does not give, because it does not declare the capability for it."""
    raise NotImplementedError("the adapter declares the capability for this, and does not give it")


_MARK = "__conformance_needs__"


def _needs(case: Callable[..., Any]) -> frozenset[Enum]:
    return getattr(case, _MARK, frozenset())


class failing(Generic[_Error]):  # noqa: N801  (read as a word: `with failing(ParkedEventNotFoundError): ...`)
    """A context whose body must raise one of the errors. The error is added to a list; any other error passes through.

    Args:
        errors: The classes of the errors.
        text: Words that the text of the error must have.

    Raises:
        AssertionError: The body raised nothing.
    """

    def __init__(self, *errors: type[_Error], text: str = "") -> None:
        self._errors = errors
        self._text = text
        self._caught: list[_Error] = []

    def __enter__(self) -> list[_Error]:
        """Return the list to which the error is added."""
        return self._caught

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None, /
    ) -> bool:
        """Catch the error if it is one of the expected errors."""
        if error is None:
            expected = " or ".join(each.__name__ for each in self._errors)
            raise AssertionError(f"{expected} expected, and nothing was raised")
        if isinstance(error, self._errors) and self._text in str(error):
            self._caught.append(error)
            return True
        return False
