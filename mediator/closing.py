"""Closing: what is called at the end of something, all of it, and what of that failed, raised as one."""

from collections.abc import Awaitable, Callable, Sequence

ExitCallback = Callable[[BaseException | None], Awaitable[None] | None]


async def call_all(exits: list[ExitCallback], error: BaseException | None) -> Sequence[BaseException]:
    """Call callbacks, last added first, also when one fails or is cancelled, and give what failed. None is left."""
    failures: list[BaseException] = []
    while exits:
        try:
            pending = exits.pop()(error)
            if pending is not None:
                await pending
        except BaseException as failure:  # collected: every other callback still runs
            failures.append(failure)
    return failures


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
