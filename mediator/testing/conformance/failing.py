"""`failing`: the expectation of a conformance case that something raises."""

from types import TracebackType


class failing:  # noqa: N801  (read as a word: `with failing(ParkedEventNotFoundError): ...`)
    """The body must raise one of the errors; it is put into the list. What else it raises passes through.

    Args:
        errors: The classes of the errors.

    Raises:
        AssertionError: It raised nothing.
    """

    def __init__(self, *errors: type[BaseException]) -> None:
        self._errors = errors
        self._caught: list[BaseException] = []

    def __enter__(self) -> list[BaseException]:
        """The list that gets the error."""
        return self._caught

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None, /
    ) -> bool:
        """Take the error, if it is one of those."""
        if error is None:
            expected = " or ".join(each.__name__ for each in self._errors)
            raise AssertionError(f"{expected} expected, and nothing was raised")
        if isinstance(error, self._errors):
            self._caught.append(error)
            return True
        return False
