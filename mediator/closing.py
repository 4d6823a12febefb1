"""Closing: how what fails is told when several things are closed, each although another one failed."""

from collections.abc import Sequence


def raise_failures(what: str, failures: Sequence[BaseException], error: BaseException | None) -> None:
    """Raise what failed while something was closed that ended with `error`: one as it is, several as a group.

    A cancellation wins. To `error` failures are added as notes instead.
    """
    for failure in failures:
        if not isinstance(failure, Exception):
            raise failure
    if error is not None:
        for failure in failures:
            error.add_note(f"While closing the {what}: {failure!r}")
    elif len(failures) == 1:
        raise failures[0]
    elif failures:
        raise BaseExceptionGroup(f"errors while closing the {what}", failures)
