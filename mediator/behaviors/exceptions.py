"""Exceptions: the behaviors that run handlers of errors and actions on errors."""

from collections.abc import Sequence
from typing import Any, ClassVar

from mediator.companions import BoundCompanion, CompanionBehavior, resolve
from mediator.handlers import message_types, type_arguments
from mediator.pipeline import CallNext
from mediator.processors import Handled, RequestExceptionAction, RequestExceptionHandler
from mediator.scope import current_frame


class RequestExceptionProcessorBehavior(CompanionBehavior):
    """Lets the `RequestExceptionHandler`s of a request turn an error into a response. Cancellation passes.

    A request that failed never leaves half of its work behind a response. Before the transaction in the list the whole
    transaction is rolled back by then, and errors of the commit are covered too. Where a transaction runs already (after it
    in the list, or in a request that joined it), the rest runs behind a savepoint, which is rolled back before the handlers
    are asked; what was done before that stays, and is committed. That holds for queries too: a statement of theirs that
    fails would leave nothing but a rollback to the whole transaction. Code that is to retry or to observe every error
    belongs inside.
    """

    works_with: ClassVar[tuple[type, ...]] = (RequestExceptionHandler,)

    async def handle_with(self, companions: Sequence[BoundCompanion], message: Any, call_next: CallNext[Any], /) -> Any:
        """Run the rest; return its response, or that of the first handler which deals with the error."""
        try:
            return await _call_undoable(message, call_next)
        except Exception as error:  # offered to the handlers; what none of them deals with is raised again
            for companion in _most_specific_first(companions, message, error):
                answer: Any = await (await resolve(companion)).handle(message, error)
                if issubclass(answer.__class__, Handled):
                    return answer.response
                if answer is not None:
                    error.add_note(f"{companion.cls.__name__} must return Handled(...) or None, and returned neither.")
            raise


class RequestExceptionActionProcessorBehavior(CompanionBehavior):
    """Shows the errors of a request to its `RequestExceptionAction`s and raises them again. Cancellation is not shown.

    Before the `RequestExceptionProcessorBehavior` in the list, actions see the errors that no handler dealt with; after it,
    all of them. Place it before the transaction: what an action writes inside is rolled back with the rest.
    """

    works_with: ClassVar[tuple[type, ...]] = (RequestExceptionAction,)

    async def handle_with(self, companions: Sequence[BoundCompanion], message: Any, call_next: CallNext[Any], /) -> Any:
        """Run the rest; run the actions on its error."""
        try:
            return await call_next()
        except Exception as error:  # looked at, and raised again
            for companion in _most_specific_first(companions, message, error):
                await _execute(companion, message, error)
            raise


async def _execute(companion: BoundCompanion, message: Any, error: Exception) -> None:
    try:
        await (await resolve(companion)).execute(message, error)
    except Exception as failure:  # collected: neither the first error nor the other actions are lost by it
        error.add_note(f"The action {companion.cls.__name__} on this error failed: {failure!r}")


async def _call_undoable(message: Any, call_next: CallNext[Any]) -> Any:
    """Go on; when that fails in a transaction that goes on, undo what was done."""
    frame = current_frame()
    transaction = frame.scope.transaction if frame is not None else None
    if transaction is None:
        return await call_next()
    async with transaction.savepoint(message):
        return await call_next()


def _most_specific_first(companions: Sequence[BoundCompanion], message: Any, error: Exception) -> list[BoundCompanion]:
    """Those that take this error, in the order in which they get it."""
    message_type: type[Any] = message.__class__
    ranked = [
        (_distance(error_types, type(error)), companion.distance(message_type), companion)
        for companion in companions
        if isinstance(error, error_types := _error_types(companion))
    ]
    ranked.sort(key=lambda rank: rank[:2])  # stable: what was declared first stays first
    return [companion for *_, companion in ranked]


def _error_types(companion: BoundCompanion) -> tuple[type, ...]:
    arguments = type_arguments(companion.cls, companion.kind)
    return message_types(arguments[-1]) if arguments else ()


def _distance(error_types: tuple[type, ...], raised: type) -> int:
    order = raised.__mro__
    return min(order.index(each) for each in error_types if each in order)
