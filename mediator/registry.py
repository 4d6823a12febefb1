"""Registry: what is bound to which message, compiled on first use and never changed."""

import difflib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from mediator.errors import HandlerNotFoundError
from mediator.handlers import RequestHandler, message_types, spelled, type_arguments
from mediator.messages import Request, is_request
from mediator.pipeline import Call, PipelineBehavior, Source, compile_chain, handler_link, handlers_link


@dataclass(frozen=True, slots=True)
class Binding:
    """A handler or a behavior, and where it comes from.

    Attributes:
        source: Gives the object; called whenever one is needed.
        cls: Its class.
        label: Where it is declared, for texts: `container.<name>`.
        kind: The generic base through which it is bound: `RequestHandler`, `NotificationHandler`, `PipelineBehavior`...
        messages: The message classes it is for; empty when the class does not say.
    """

    source: Source
    cls: type
    label: str
    kind: type
    messages: tuple[type, ...] = field(init=False)

    def __post_init__(self) -> None:
        arguments = type_arguments(self.cls, self.kind) or ()
        unsaid: tuple[Any, ...] = (Any,) if self.kind is PipelineBehavior else ()
        found = message_types((arguments or unsaid)[0]) if arguments or unsaid else ()
        object.__setattr__(self, "messages", found)

    def takes(self, message_type: type) -> bool:
        """Whether messages of this class (or of one it derives from) are meant."""
        return any(issubclass(message_type, cls) for cls in self.messages)

    def distance(self, message_type: type) -> int:
        """How specific the binding is for a message class: 0 for the class itself, more for its bases."""
        order = message_type.__mro__
        return min(order.index(cls) for cls in self.messages if cls in order)


@dataclass(frozen=True, slots=True)
class Pipeline:
    """What happens to one message class, in order.

    Attributes:
        message_type: The class.
        behaviors: Around the handlers, outermost first.
        handlers: One for a request, any number for a notification or an event.
        call: The compiled chain.
    """

    message_type: type
    behaviors: Sequence[Binding]
    handlers: Sequence[Binding]
    call: Call

    def __str__(self) -> str:
        rows = [(f"  {n}. {behavior.cls.__name__}", behavior.label) for n, behavior in enumerate(self.behaviors, 1)]
        word = "handler" if is_request(self.message_type) else "subscriber"
        rows += [(f"  {word}: {handler.cls.__name__}", handler.label) for handler in self.handlers]
        lines = [_heading(self.message_type), *(f"{what:<40} {where}" for what, where in rows)]
        return "\n".join(lines if self.handlers else [*lines, f"  no {word}s"])


def _heading(message_type: type) -> str:
    response = type_arguments(message_type, Request)
    if not response:
        return message_type.__name__
    return f"{message_type.__name__} -> {spelled(response[0])}"


class Registry:
    """Handlers and behaviors in the order in which they were declared. Safe to share; it never changes."""

    def __init__(self, handlers: Iterable[Binding] = (), behaviors: Iterable[Binding] = ()) -> None:
        self.handlers = tuple(handlers)
        self.behaviors = tuple(behaviors)
        self._pipelines: dict[type, Pipeline] = {}

    def message_types(self) -> tuple[type, ...]:
        """Every message class that has a handler, in the order of declaration."""
        return tuple(dict.fromkeys(cls for binding in self.handlers for cls in binding.messages))

    def describe(self, message_type: type | None = None) -> str:
        """The chain of a message class, or of all that have a handler, as text.

        Raises:
            HandlerNotFoundError: It is a request, and nothing handles it.
        """
        chosen = self.message_types() if message_type is None else (message_type,)
        return "\n\n".join(str(self.pipeline(cls)) for cls in chosen)

    def handlers_of(self, kind: type) -> tuple[Binding, ...]:
        """The handlers bound through one generic base."""
        return tuple(binding for binding in self.handlers if binding.kind is kind)

    def pipeline(self, message_type: type) -> Pipeline:
        """The pipeline of a message class, compiled at the first call.

        Raises:
            HandlerNotFoundError: It is a request, and nothing handles it.
        """
        found = self._pipelines.get(message_type)
        if found is None:
            found = self._pipelines[message_type] = self._compile(message_type)
        return found

    def _compile(self, message_type: type) -> Pipeline:
        behaviors = self._behaviors_of(message_type)
        if is_request(message_type):
            handlers = [b for b in self.handlers_of(RequestHandler) if message_type in b.messages][:1]
            if not handlers:
                raise HandlerNotFoundError(message_type, self._nearest(message_type))
            innermost = handler_link(handlers[0].source)
        else:
            handlers = [b for b in self.handlers if b.takes(message_type) and b.kind is not RequestHandler]
            innermost = handlers_link([binding.source for binding in handlers])
        chain = compile_chain([binding.source for binding in behaviors], innermost)
        return Pipeline(message_type, behaviors, handlers, chain)

    def _behaviors_of(self, message_type: type) -> list[Binding]:
        matching = [binding for binding in self.behaviors if binding.takes(message_type)]
        chosen: dict[str, Binding] = {}
        for binding in matching:
            name = getattr(binding.cls, "one_of", None)
            if name and (name not in chosen or binding.distance(message_type) < chosen[name].distance(message_type)):
                chosen[name] = binding
        return [b for b in matching if not (n := getattr(b.cls, "one_of", None)) or chosen[n] is b]

    def _nearest(self, message_type: type) -> list[str]:
        known = [cls.__name__ for binding in self.handlers_of(RequestHandler) for cls in binding.messages]
        return difflib.get_close_matches(message_type.__name__, known, n=2, cutoff=0.6)
