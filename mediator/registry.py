"""Registry: the handlers, behaviors and collaborators of an application; a pipeline is compiled on its first use."""

import difflib
import typing
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from mediator.binding import Binding, Fit
from mediator.collaborators import WorksWithCollaborators, equipped
from mediator.errors import HandlerNotFoundError, misuse
from mediator.handlers import RequestHandler, StreamRequestHandler, spelled, type_arguments
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
    noting_link,
    own_scope_link,
    strategy_link,
)
from mediator.strategies import PublishStrategy, Sequential, check_strategy
from mediator.streams import StreamPipelineBehavior, compile_stream

_ONE_HANDLER = (RequestHandler, StreamRequestHandler)
_KEPT = 256
"""The largest number of compiled pipelines that are kept for strategies given to `publish`."""


@dataclass(frozen=True, slots=True)
class Pipeline:
    """The compiled pipeline of one message class.

    Attributes:
        behaviors: The behaviors around the handlers, outermost first.
        handlers: The handlers: one for a request, any number for a notification or an event.
        call: The compiled chain; a `StreamCall` for a stream request.
        handler_behaviors: The behaviors around each single handler of a notification, outermost first.
        strategy: How the handlers of a notification are run; `None` for requests and streams.
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
            rows += [(f"     with {each.cls.__name__}", each.label) for each in behavior.collaborators]
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


def _unknown_arguments(message_type: type, base: type, bindings: Iterable[Binding]) -> HandlerNotFoundError:
    families = {
        binding.label: " | ".join(spelled(each) for each in binding.families if typing.get_origin(each) is base)
        for binding in bindings
    }
    return misuse.unknown_type_arguments(message_type, base, families)


def _unchanged(source: Source) -> Source:
    return source


class Registry:
    """The handlers, behaviors and collaborators in the order of declaration. A registry is immutable and safe to share.

    Args:
        handlers: The handlers of requests, notifications, stream requests and events.
        behaviors: The behaviors around the handlers, outermost first.
        collaborators: The validators, authorizers and processors that behaviors work with.
        strategy: How the handlers of a notification are run if its class declares no strategy; `Sequential()` when not
            given.
        compile_source: Takes the `source` of a binding, and returns the function that pipelines call instead. By
            default, pipelines call `source` itself.

    Raises:
        SettingError: `strategy` is no strategy.
    """

    def __init__(
        self,
        handlers: Iterable[Binding] = (),
        behaviors: Iterable[Binding] = (),
        collaborators: Iterable[Binding] = (),
        *,
        strategy: PublishStrategy | None = None,
        compile_source: Callable[[Source], Source] = _unchanged,
    ) -> None:
        self.handlers: tuple[Binding, ...] = tuple(handlers)
        self.behaviors: tuple[Binding, ...] = tuple(behaviors)
        self.collaborators: tuple[Binding, ...] = tuple(collaborators)
        self.strategy: PublishStrategy = Sequential() if strategy is None else strategy
        check_strategy(self.strategy)
        self._compile_source = compile_source
        self._pipelines: dict[type, Pipeline] = {}
        self._chosen: dict[tuple[type, PublishStrategy], Pipeline] = {}

    def message_types(self) -> tuple[type, ...]:
        """Return every message class that has a handler, in the order of declaration."""
        return tuple(dict.fromkeys(cls for binding in self.handlers for cls in binding.messages))

    def describe_all(self, message_types: Iterable[type]) -> str:
        """Return the pipelines of several message classes as text; see `pipeline`."""
        return "\n\n".join(str(self.pipeline(cls)) for cls in message_types)

    def handlers_of(self, kind: type) -> tuple[Binding, ...]:
        """Return the handlers that are bound through one generic base, such as `RequestHandler`."""
        return tuple(binding for binding in self.handlers if binding.kind is kind)

    def pipeline(self, message_type: type, strategy: PublishStrategy | None = None) -> Pipeline:
        """Return the pipeline of a message class; it is compiled at the first call.

        Args:
            message_type: The message class.
            strategy: How to run the handlers; when not given, the strategy of the class or the registry applies.

        Raises:
            HandlerNotFoundError: The class is a request and has no handler; or handlers differ in their type arguments,
                and the type arguments of the class are unknown.
            DeclarationError: The class is of several kinds, for example a command and a query.
            SettingError: `strategy`, or the strategy of the class, is no strategy.
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
        except TypeError:  # not hashable: the check below raises a clearer error
            found = None
        if found is None:
            check_strategy(strategy)
            found = self._compile(message_type, strategy)
            if len(self._chosen) >= _KEPT:  # without a limit, strategies made for each publish would accumulate
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
        handler = self._handler_of(message_type, StreamRequestHandler)
        behaviors = self._applicable(StreamPipelineBehavior, message_type, [handler])
        chain = compile_stream(self._sources(behaviors), self._compile_source(handler.source))
        return Pipeline(message_type, behaviors, [handler], chain)

    def _compile_request(self, message_type: type) -> Pipeline:
        handler = self._handler_of(message_type, RequestHandler)
        behaviors = self._behaviors_of(message_type, [handler])
        innermost = handler_link(self._compile_source(handler.source))
        chain = compile_chain(self._sources(behaviors), innermost, committing_place(behaviors))
        return Pipeline(message_type, behaviors, [handler], chain)

    def _handler_of(self, message_type: type, kind: type) -> Binding:
        for cls in message_type.__mro__:  # the handler of the class, or else of its nearest base class
            found = [(b, b.fit_of(message_type, cls)) for b in self.handlers_of(kind) if cls in b.messages]
            serving = [binding for binding, fit in found if fit is Fit.YES]
            if serving:  # `Create[Student]` comes before `Create[Any]`
                return min(serving, key=lambda binding: binding.vagueness(message_type, cls))
            possible = [binding for binding, fit in found if fit is Fit.UNKNOWN]
            if len(possible) == 1:
                return possible[0]
            if possible:
                raise _unknown_arguments(message_type, cls, possible)
        known = [cls.__name__ for binding in self.handlers_of(kind) for cls in binding.messages]
        nearest = difflib.get_close_matches(message_type.__name__, known, n=2, cutoff=0.6)
        raise misuse.no_handler(message_type, nearest)

    def _subscribers_of(self, message_type: type) -> list[Binding]:
        """Return the handlers of a notification or an event.

        If the type arguments of the message class `Created` are unknown, and there is a handler of `Created` itself,
        the handlers of `Created[Student]` are left out.

        Raises:
            HandlerNotFoundError: There are handlers of `Created[Student]` and `Created[Course]`, for example, but none
                of `Created`.
        """
        found = [b for b in self.handlers if b.kind not in _ONE_HANDLER and b.takes(message_type)]
        possible = [b for b in found if b.fit(message_type) is Fit.UNKNOWN]
        passed_over: list[Binding] = []
        for base in dict.fromkeys(base for binding in possible for base in binding.bases_unknown(message_type)):
            concerned = [binding for binding in possible if base in binding.bases_unknown(message_type)]
            if any(binding.is_open_for(base) for binding in found):
                passed_over += concerned
            elif len({tuple(binding.families) for binding in concerned}) > 1:
                raise _unknown_arguments(message_type, base, concerned)
        return [binding for binding in found if binding not in passed_over]

    def _applies(self, binding: Binding, message_type: type, handlers: Sequence[Binding]) -> bool:
        """Return whether a behavior or collaborator applies to a message class that has the given handlers.

        If the type arguments of the message class `Created` are unknown, a behavior or collaborator for
        `Created[Student]` applies only if a handler is for `Created[Student]` too.

        Raises:
            HandlerNotFoundError: An authorizer or validator is for `Created[Student]`, but no handler is. An authorizer
                or validator must not be skipped.
        """
        fit = binding.fit(message_type)
        if fit is not Fit.UNKNOWN:
            return fit is Fit.YES
        families = {
            family for handler in handlers if handler.fit(message_type) is Fit.UNKNOWN for family in handler.families
        }
        if not families.isdisjoint(binding.families):
            return True
        if getattr(binding.kind, "decides", False):
            raise _unknown_arguments(message_type, binding.bases_unknown(message_type)[0], [binding])
        return False

    def _compile_publish(self, message_type: type, strategy: PublishStrategy) -> Pipeline:
        handlers = self._subscribers_of(message_type)
        behaviors = self._behaviors_of(message_type, handlers)
        around_each = self._applicable(NotificationPipelineBehavior, message_type, handlers)
        calls = [self._around(around_each, handler) for handler in handlers]
        is_event = not issubclass(message_type, Notification)
        if is_event and len(handlers) > 1:  # the consumer needs to know which of the handlers failed
            calls = [noting_link(handler.cls, call) for handler, call in zip(handlers, calls, strict=True)]
        around = behaviors
        if strategy.scope_per_handler:
            inside = [b for b in behaviors if b.cls.per_scope]  # type: ignore[attr-defined]  # a behavior
            around = [b for b in behaviors if not b.cls.per_scope]  # type: ignore[attr-defined]
            calls = [own_scope_link(compile_chain(self._sources(inside), c, committing_place(inside))) for c in calls]
        alone = len(calls) == 1 and not around and strategy == Sequential()  # if so, the only call is the whole chain
        chain = (
            calls[0]
            if alone
            else compile_chain(self._sources(around), strategy_link(strategy, calls), committing_place(around))
        )
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

    def _applicable(self, kind: type, message_type: type, handlers: Sequence[Binding]) -> list[Binding]:
        candidates = [b for b in self.behaviors if b.kind is kind and self._applies(b, message_type, handlers)]
        return [each for b in candidates if (each := self._equip(b, message_type, handlers)) is not None]

    def _behaviors_of(self, message_type: type, handlers: Sequence[Binding]) -> list[Binding]:
        matching = self._applicable(PipelineBehavior, message_type, handlers)
        chosen: dict[str, Binding] = {}
        for binding in matching:
            name = getattr(binding.cls, "one_of", None)
            if name and (name not in chosen or binding.distance(message_type) < chosen[name].distance(message_type)):
                chosen[name] = binding
        return [b for b in matching if not (n := getattr(b.cls, "one_of", None)) or chosen[n] is b]

    def _equip(self, behavior: Binding, message_type: type, handlers: Sequence[Binding]) -> Binding | None:
        """Return a behavior with its collaborators for a message class; `None` if the behavior has nothing to do."""
        if not issubclass(behavior.cls, WorksWithCollaborators):
            return behavior
        kinds = behavior.cls.works_with
        asked = (each for each in self.collaborators if each.kind in kinds)
        found = tuple(each for each in asked if self._applies(each, message_type, handlers))
        if not behavior.cls.applies_to(message_type, found):
            return None
        return replace(behavior, source=equipped(self._compile_source(behavior.source), found), collaborators=found)


def committing_place(behaviors: Sequence[Binding]) -> int:
    """Return the index of the outermost behavior that commits; 0 if no behavior commits."""
    places = (place for place, binding in enumerate(behaviors) if getattr(binding.cls, "commits", False))
    return next(places, 0)
