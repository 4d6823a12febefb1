"""Processing: the behaviors that run pre- and post-processors of requests."""

from collections.abc import Sequence
from typing import Any, ClassVar

from mediator.companions import BoundCompanion, CompanionBehavior, resolve
from mediator.pipeline import CallNext
from mediator.processors import RequestPostProcessor, RequestPreProcessor


class RequestPreProcessorBehavior(CompanionBehavior):
    """Runs every `RequestPreProcessor` of a request, one after the other, and then goes on.

    Place it inside authorization and validation. After the transaction in the list, what the processors write is
    committed or rolled back with the command.
    """

    works_with: ClassVar[tuple[type, ...]] = (RequestPreProcessor,)

    async def handle_with(self, companions: Sequence[BoundCompanion], message: Any, call_next: CallNext[Any], /) -> Any:
        """Run the processors, then the rest."""
        for companion in companions:
            await (await resolve(companion)).process(message)
        return await call_next()


class RequestPostProcessorBehavior(CompanionBehavior):
    """Goes on, and then runs every `RequestPostProcessor` of the request, one after the other.

    After the transaction in the list, the processors run before the commit, write with the command, and undo it when they
    raise. Before the transaction they run when it has committed; raising there undoes nothing.
    """

    works_with: ClassVar[tuple[type, ...]] = (RequestPostProcessor,)

    async def handle_with(self, companions: Sequence[BoundCompanion], message: Any, call_next: CallNext[Any], /) -> Any:
        """Run the rest, then the processors."""
        response = await call_next()
        for companion in companions:
            await (await resolve(companion)).process(message, response)
        return response
