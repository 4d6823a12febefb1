"""Registry: what is bound to which message, compiled on first use and never changed."""

import difflib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from mediator.binding import Binding
from mediator.companions import WorksWithCompanions, equipped
from mediator.errors import HandlerNotFoundError
from mediator.handlers import (
    RequestHandler,
    StreamRequestHandler,
    spelled,
    type_arguments,
)
from mediator.messages import Notification, Request, StreamRequest, check_kind, is_request, is_stream_request
from mediator.pipeline import (
    Call,
    NotificationPipelineBehavior,
    PipelineBehavior,
    Source,
    awaited_link,
    compile_chain,
    handler_link,
    notification_behavior_link,
    own_scope_link,
    strategy_link,
)
from mediator.strategies import PublishStrategy, Sequential, check_strategy
from mediator.streams import StreamPipelineBehavior, compile_stream

_ONE_HANDLER = (RequestHandler, StreamRequestHandler)
_KEPT = 256
"""How many pipelines of strategies that were given with a publish are kept."""


@dataclass(frozen=True, slots=True)
class Pipeline:
    """What happens to one message class, in order.

    Attributes:
        message_type: The class.
        behaviors: Around the handlers, outermost first.
        handlers: One for a request, any number for a notification or an event.
        call: The compiled chain: of a stream request a `StreamCall`.
        handler_behaviors: Around each single handler of a notification, outermost first.
        strategy: How the handlers of a notification are run.
    """

    message_type: type
    behaviors: Sequence[Binding]
    handlers: Sequence[Binding]
    call: Callable[..., Any]
    handler_behaviors: Sequence[Binding] = ()
    strategy: PublishStrategy | None = None

    def __str__(self) -> str:
        rows: list[tuple[str, str]] = []
        for number, behavior in enumerate(self.behaviors, 1):
            rows.append((f"  {number}. {behavior.cls.__name__}", behavior.label))
            rows += [(f"     with {each.cls.__name__}", each.label) for each in behavior.companions]
        word = "handler" if is_request(self.message_type) or is_stream_request(self.message_type) else "subscriber"
        rows += [(f"  around each: {each.cls.__name__}", each.label) for each in self.handler_behaviors]
        rows += [(f"  {word}: {handler.cls.__name__}", handler.label) for handler in self.handlers]
        lines = [_heading(self.message_type), *(f"{what:<40} {where}" for what, where in rows)]
        return "\n".join(lines if self.handlers else [*lines, f"  no {word}s"])


def _heading(message_type: type) -> str:
    name = message_type.__name__
    if response := type_arguments(message_type, Request):
        return f"{name} -> {spelled(response[0])}"
    items = type_arguments(message_type, StreamRequest)
    return f"{name} -> stream of {spelled(items[0])}" if items else name


def _unchanged(source: Source) -> Source:
    return source


class Registry:
    """Handlers and behaviors in the order in which they were declared. Safe to share; it never changes.

    Args:
        handlers: What handles requests, notifications and events.
        behaviors: What is around them, outermost first.
        companions: What behaviors work with: validators, authorizers, processors.
        strategy: How the handlers of a notification are run whose class does not say it; `Sequential()` when not given.
        compile_source: Gives for a source what pipelines call instead: a faster way to the same object.

    Raises:
        SettingError: `strategy` is no strategy.
    """

    def __init__(
        self,
        handlers: Iterable[Binding] = (),
        behaviors: Iterable[Binding] = (),
        companions: Iterable[Binding] = (),
        *,
        strategy: PublishStrategy | None = None,
        compile_source: Callable[[Source], Source] = _unchanged,
    ) -> None:
        self.handlers: tuple[Binding, ...] = tuple(handlers)
        self.behaviors: tuple[Binding, ...] = tuple(behaviors)
        self.companions: tuple[Binding, ...] = tuple(companions)
        self.strategy: PublishStrategy = Sequential() if strategy is None else strategy
        check_strategy(self.strategy)
        self._compile_source = compile_source
        self._pipelines: dict[type, Pipeline] = {}
        self._chosen: dict[tuple[type, PublishStrategy], Pipeline] = {}

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
            MessageDeclarationError: It is of several kinds.
            SettingError: `strategy`, or that of its class, is no strategy.
        """
        if strategy is not None:
            return self._pipeline_with(message_type, strategy)
        found = self._pipelines.get(message_type)
        if found is None:
            found = self._pipelines[message_type] = self._compile(message_type, None)
        return found

    def _pipeline_with(self, message_type: type, strategy: PublishStrategy) -> Pipeline:
        try:
            found = self._chosen.get((message_type, strategy))
        except TypeError:  # not hashable, which the check below says better
            found = None
        if found is None:
            check_strategy(strategy)
            found = self._compile(message_type, strategy)
            if len(self._chosen) >= _KEPT:  # of strategies that are new each time, none is asked for again
                del self._chosen[next(iter(self._chosen))]
            self._chosen[message_type, strategy] = found
        return found

    def _compile(self, message_type: type, strategy: PublishStrategy | None) -> Pipeline:
        check_kind(message_type)
        if is_request(message_type):
            return self._compile_request(message_type)
        if is_stream_request(message_type):
            return self._compile_stream(message_type)
        return self._compile_publish(message_type, strategy or self._strategy_of(message_type))

    def _compile_stream(self, message_type: type) -> Pipeline:
        along = [b for b in self.behaviors if b.kind is StreamPipelineBehavior and b.takes(message_type)]
        behaviors = [each for b in along if (each := self._equip(b, message_type)) is not None]
        handler = self._handler_of(message_type, StreamRequestHandler)
        chain = compile_stream(self._sources(behaviors), self._compile_source(handler.source))
        return Pipeline(message_type, behaviors, [handler], chain)

    def _compile_request(self, message_type: type) -> Pipeline:
        behaviors = self._behaviors_of(message_type)
        handler = self._handler_of(message_type, RequestHandler)
        chain = compile_chain(self._sources(behaviors), handler_link(self._compile_source(handler.source)))
        return Pipeline(message_type, behaviors, [handler], chain)

    def _handler_of(self, message_type: type, kind: type) -> Binding:
        for cls in message_type.__mro__:  # its own handler, or else that of the family it belongs to
            serving = [b for b in self.handlers_of(kind) if cls in b.messages and b.serves(message_type, cls)]
            if serving:  # that of `Create[Student]` before that of `Create[Any]`
                return min(serving, key=lambda binding: binding.vagueness(message_type, cls))
        known = [cls.__name__ for binding in self.handlers_of(kind) for cls in binding.messages]
        nearest = difflib.get_close_matches(message_type.__name__, known, n=2, cutoff=0.6)
        raise HandlerNotFoundError(message_type, nearest)

    def _compile_publish(self, message_type: type, strategy: PublishStrategy) -> Pipeline:
        behaviors = self._behaviors_of(message_type)
        around_each = [b for b in self.behaviors if b.kind is NotificationPipelineBehavior and b.takes(message_type)]
        handlers = [b for b in self.handlers if b.takes(message_type) and b.kind not in _ONE_HANDLER]
        calls = [self._around(around_each, handler) for handler in handlers]
        around = behaviors
        if strategy.scope_per_handler:
            inside = [b for b in behaviors if b.cls.per_scope]  # type: ignore[attr-defined]  # a behavior
            around = [b for b in behaviors if not b.cls.per_scope]  # type: ignore[attr-defined]
            calls = [own_scope_link(compile_chain(self._sources(inside), call)) for call in calls]
        alone = len(calls) == 1 and not around and strategy == Sequential()  # nobody sees what the handler returns
        chain = calls[0] if alone else compile_chain(self._sources(around), strategy_link(strategy, calls))
        return Pipeline(message_type, behaviors, handlers, chain, around_each, strategy)

    def _sources(self, bindings: Iterable[Binding]) -> list[Source]:
        return [self._compile_source(binding.source) for binding in bindings]

    def _around(self, behaviors: Sequence[Binding], handler: Binding) -> Call:
        call = handler_link(self._compile_source(handler.source))
        for behavior in reversed(behaviors):
            call = notification_behavior_link(self._compile_source(behavior.source), handler.cls, call)
        return awaited_link(call) if behaviors else call

    def _strategy_of(self, message_type: type) -> PublishStrategy:
        if not issubclass(message_type, Notification):
            return Sequential()  # the handlers of a delivered event share its transaction
        if message_type.publish_strategy is None:
            return self.strategy
        check_strategy(message_type.publish_strategy)
        return message_type.publish_strategy

    def _behaviors_of(self, message_type: type) -> list[Binding]:
        candidates = [b for b in self.behaviors if b.kind is PipelineBehavior and b.takes(message_type)]
        matching = [each for b in candidates if (each := self._equip(b, message_type)) is not None]
        chosen: dict[str, Binding] = {}
        for binding in matching:
            name = getattr(binding.cls, "one_of", None)
            if name and (name not in chosen or binding.distance(message_type) < chosen[name].distance(message_type)):
                chosen[name] = binding
        return [b for b in matching if not (n := getattr(b.cls, "one_of", None)) or chosen[n] is b]

    def _equip(self, behavior: Binding, message_type: type) -> Binding | None:
        """The behavior with its companions for a message class; `None` when it has nothing to do there."""
        if not issubclass(behavior.cls, WorksWithCompanions):
            return behavior
        kinds = behavior.cls.works_with
        found = tuple(each for each in self.companions if each.kind in kinds and each.takes(message_type))
        if not behavior.cls.applies_to(message_type, found):
            return None
        return replace(behavior, source=equipped(self._compile_source(behavior.source), found), companions=found)
