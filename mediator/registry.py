"""Registry: what is bound to which message, compiled on first use and never changed."""

import difflib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from mediator.errors import HandlerNotFoundError
from mediator.handlers import RequestHandler, message_types, spelled, type_arguments
from mediator.messages import Notification, Request, is_request
from mediator.pipeline import (
    Call,
    NotificationPipelineBehavior,
    PipelineBehavior,
    Source,
    compile_chain,
    handler_link,
    notification_behavior_link,
    own_scope_link,
    strategy_link,
)
from mediator.strategies import PublishStrategy, Sequential


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
        unsaid: tuple[Any, ...] = (Any,) if self.kind in (PipelineBehavior, NotificationPipelineBehavior) else ()
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
        handler_behaviors: Around each single handler of a notification, outermost first.
        strategy: How the handlers of a notification are run.
    """

    message_type: type
    behaviors: Sequence[Binding]
    handlers: Sequence[Binding]
    call: Call
    handler_behaviors: Sequence[Binding] = ()
    strategy: PublishStrategy | None = None

    def __str__(self) -> str:
        rows = [(f"  {n}. {behavior.cls.__name__}", behavior.label) for n, behavior in enumerate(self.behaviors, 1)]
        word = "handler" if is_request(self.message_type) else "subscriber"
        rows += [(f"  around each: {each.cls.__name__}", each.label) for each in self.handler_behaviors]
        rows += [(f"  {word}: {handler.cls.__name__}", handler.label) for handler in self.handlers]
        lines = [_heading(self.message_type), *(f"{what:<40} {where}" for what, where in rows)]
        return "\n".join(lines if self.handlers else [*lines, f"  no {word}s"])


def _around(behaviors: Sequence[Binding], handler: Binding) -> Call:
    call = handler_link(handler.source)
    for behavior in reversed(behaviors):
        call = notification_behavior_link(behavior.source, handler.cls, call)
    return call


def _heading(message_type: type) -> str:
    response = type_arguments(message_type, Request)
    if not response:
        return message_type.__name__
    return f"{message_type.__name__} -> {spelled(response[0])}"


class Registry:
    """Handlers and behaviors in the order in which they were declared. Safe to share; it never changes.

    Args:
        handlers: What handles requests, notifications and events.
        behaviors: What is around them, outermost first.
        strategy: How the handlers of a notification are run whose class does not say it; `Sequential()` when not given.
    """

    def __init__(
        self,
        handlers: Iterable[Binding] = (),
        behaviors: Iterable[Binding] = (),
        *,
        strategy: PublishStrategy | None = None,
    ) -> None:
        self.handlers = tuple(handlers)
        self.behaviors = tuple(behaviors)
        self.strategy = strategy or Sequential()
        self._pipelines: dict[Any, Pipeline] = {}

    def message_types(self) -> tuple[type, ...]:
        """Every message class that has a handler, in the order of declaration."""
        return tuple(dict.fromkeys(cls for binding in self.handlers for cls in binding.messages))

    def describe(self, message_type: type | None = None) -> str:
        """The chain of a message class, or of all that have a handler, as text.

        Raises:
            HandlerNotFoundError: It is a request, and nothing handles it.
        """
        return self.describe_all(self.message_types() if message_type is None else (message_type,))

    def describe_all(self, message_types: Iterable[type]) -> str:
        """The chains of some message classes, as text.

        Raises:
            HandlerNotFoundError: One is a request, and nothing handles it.
        """
        return "\n\n".join(str(self.pipeline(cls)) for cls in message_types)

    def handlers_of(self, kind: type) -> tuple[Binding, ...]:
        """The handlers bound through one generic base."""
        return tuple(binding for binding in self.handlers if binding.kind is kind)

    def pipeline(self, message_type: type, strategy: PublishStrategy | None = None) -> Pipeline:
        """The pipeline of a message class, compiled at the first call.

        Args:
            message_type: The class.
            strategy: Another one for this notification than its class or the registry says.

        Raises:
            HandlerNotFoundError: It is a request, and nothing handles it.
        """
        key = message_type if strategy is None else (message_type, strategy)
        found = self._pipelines.get(key)
        if found is None:
            found = self._pipelines[key] = (
                self._compile_request(message_type)
                if is_request(message_type)
                else self._compile_publish(message_type, strategy or self._strategy_of(message_type))
            )
        return found

    def _compile_request(self, message_type: type) -> Pipeline:
        behaviors = self._behaviors_of(message_type)
        handlers = [b for b in self.handlers_of(RequestHandler) if message_type in b.messages][:1]
        if not handlers:
            raise HandlerNotFoundError(message_type, self._nearest(message_type))
        chain = compile_chain([binding.source for binding in behaviors], handler_link(handlers[0].source))
        return Pipeline(message_type, behaviors, handlers, chain)

    def _compile_publish(self, message_type: type, strategy: PublishStrategy) -> Pipeline:
        behaviors = self._behaviors_of(message_type)
        around_each = [b for b in self.behaviors if b.kind is NotificationPipelineBehavior and b.takes(message_type)]
        handlers = [b for b in self.handlers if b.takes(message_type) and b.kind is not RequestHandler]
        calls = [_around(around_each, handler) for handler in handlers]
        around = behaviors
        if strategy.scope_per_handler:
            inside = [b.source for b in behaviors if b.cls.per_scope]  # type: ignore[attr-defined]  # a behavior
            around = [b for b in behaviors if not b.cls.per_scope]  # type: ignore[attr-defined]
            calls = [own_scope_link(compile_chain(inside, call)) for call in calls]
        chain = compile_chain([binding.source for binding in around], strategy_link(strategy, calls))
        return Pipeline(message_type, behaviors, handlers, chain, around_each, strategy)

    def _strategy_of(self, message_type: type) -> PublishStrategy:
        if not issubclass(message_type, Notification):
            return Sequential()  # the handlers of a delivered event share its transaction
        return message_type.publish_strategy or self.strategy

    def _behaviors_of(self, message_type: type) -> list[Binding]:
        matching = [b for b in self.behaviors if b.kind is PipelineBehavior and b.takes(message_type)]
        chosen: dict[str, Binding] = {}
        for binding in matching:
            name = getattr(binding.cls, "one_of", None)
            if name and (name not in chosen or binding.distance(message_type) < chosen[name].distance(message_type)):
                chosen[name] = binding
        return [b for b in matching if not (n := getattr(b.cls, "one_of", None)) or chosen[n] is b]

    def _nearest(self, message_type: type) -> list[str]:
        known = [cls.__name__ for binding in self.handlers_of(RequestHandler) for cls in binding.messages]
        return difflib.get_close_matches(message_type.__name__, known, n=2, cutoff=0.6)
