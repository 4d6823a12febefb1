"""Registry: what is bound to which message, compiled on first use and never changed."""

import difflib
import typing
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

from mediator.companions import CompanionBehavior, equipped
from mediator.errors import HandlerNotFoundError
from mediator.handlers import (
    UNIONS,
    RequestHandler,
    StreamRequestHandler,
    fits,
    message_types,
    spelled,
    type_arguments,
)
from mediator.messages import Notification, Request, StreamRequest, is_request, is_stream_request
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
from mediator.strategies import PublishStrategy, Sequential
from mediator.streams import StreamPipelineBehavior, compile_stream

_BEHAVIORS = (PipelineBehavior, NotificationPipelineBehavior, StreamPipelineBehavior)
_ONE_HANDLER = (RequestHandler, StreamRequestHandler)


@dataclass(frozen=True, slots=True)
class Binding:
    """A handler or a behavior, and where it comes from.

    Attributes:
        source: Gives the object; called whenever one is needed.
        cls: Its class.
        label: Where it is declared, for texts: `container.<name>`.
        kind: The generic base through which it is bound: `RequestHandler`, `NotificationHandler`, `PipelineBehavior`...
        messages: The message classes it is for; empty when the class does not say.
        companions: Of a behavior in a compiled pipeline: what it works with there.
    """

    source: Source
    cls: type
    label: str
    kind: type
    messages: tuple[type, ...] = field(init=False)
    companions: "tuple[Binding, ...]" = ()

    def __post_init__(self) -> None:
        arguments = type_arguments(self.cls, self.kind) or ()
        unsaid: tuple[Any, ...] = (Any,) if self.kind in _BEHAVIORS else ()
        found = message_types((arguments or unsaid)[0]) if arguments or unsaid else ()
        object.__setattr__(self, "messages", found)

    @property
    def families(self) -> tuple[Any, ...]:
        """What it is for, with type arguments where they make a difference: `Create[Student]`, but not `Create[Any]`."""
        said = (type_arguments(self.cls, self.kind) or (None,))[0]
        members = typing.get_args(said) if typing.get_origin(said) in UNIONS else (said,)
        narrow = {message: [each for each in members if _is_narrow(each, message)] for message in self.messages}
        found = [(message,) if message in members else each or (message,) for message, each in narrow.items()]
        return tuple(dict.fromkeys(each for families in found for each in families))

    def takes(self, message_type: type) -> bool:
        """Whether messages of this class (or of one it derives from) are meant."""
        return any(issubclass(message_type, cls) and self.serves(message_type, cls) for cls in self.messages)

    def serves(self, message_type: type, base: type) -> bool:
        """Whether what is for `base` is for a class derived from it: `Create[Student]` is not for `Create[Course]`."""
        families = self._arguments(base)
        given = type_arguments(message_type, base) or () if message_type is not base else ()
        return not families or any(all(map(fits, given, wanted)) for wanted in families)

    def vagueness(self, message_type: type, base: type) -> int:
        """How little it says of the type arguments of `base`: 0 when they are those of the message class."""
        families = self._arguments(base)
        return 2 if not families else int(type_arguments(message_type, base) not in families)

    def _arguments(self, base: type) -> list[tuple[Any, ...]]:
        return [typing.get_args(family) for family in self.families if typing.get_origin(family) is base]

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


def _is_narrow(said: Any, message: type) -> bool:
    arguments = typing.get_args(said) if typing.get_origin(said) is message else ()
    return any(argument is not Any and not isinstance(argument, TypeVar) for argument in arguments)


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
        self.strategy: PublishStrategy = strategy or Sequential()
        self._compile_source = compile_source
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
            found = self._pipelines[key] = self._compile(message_type, strategy)
        return found

    def _compile(self, message_type: type, strategy: PublishStrategy | None) -> Pipeline:
        if is_request(message_type):
            return self._compile_request(message_type)
        if is_stream_request(message_type):
            return self._compile_stream(message_type)
        return self._compile_publish(message_type, strategy or self._strategy_of(message_type))

    def _compile_stream(self, message_type: type) -> Pipeline:
        behaviors = [b for b in self.behaviors if b.kind is StreamPipelineBehavior and b.takes(message_type)]
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
        return message_type.publish_strategy or self.strategy

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
        if not issubclass(behavior.cls, CompanionBehavior):
            return behavior
        kinds = behavior.cls.works_with
        found = tuple(each for each in self.companions if each.kind in kinds and each.takes(message_type))
        if not behavior.cls.applies_to(message_type, found):
            return None
        return replace(behavior, source=equipped(self._compile_source(behavior.source), found), companions=found)
