"""Rules for companions: a behavior in the list asks them about each message they are for, and they answer as it expects."""

import inspect
from collections.abc import Iterable, Iterator
from typing import Any

from mediator.behaviors.authorization import Authorizer, StreamAuthorizationBehavior
from mediator.behaviors.validation import StreamValidationBehavior, ValidationBehavior, Validator, checks_itself
from mediator.binding import Binding
from mediator.companions import CompanionBehavior, StreamCompanionBehavior, WorksWithCompanions
from mediator.dependency_injector.catalog import Catalog
from mediator.errors import Problem
from mediator.handlers import StreamRequestHandler, fits, spelled, type_arguments
from mediator.messages import Request, is_stream_request
from mediator.processors import RequestExceptionHandler, RequestPostProcessor

_TAKING_RESPONSES = (RequestExceptionHandler, RequestPostProcessor)
_OF_STREAMS: dict[type, type] = {Authorizer: StreamAuthorizationBehavior, Validator: StreamValidationBehavior}


def find_companion_faults(catalog: Catalog) -> Iterator[Problem]:
    """What is wrong with what the behaviors of one mediator work with."""
    for companion in catalog.companions:
        yield from _never_asked(companion, catalog)
        yield from _not_async(companion)
        yield from _wrong_response(companion)
    yield from _never_validated(catalog)


def _never_asked(companion: Binding, catalog: Catalog) -> Iterator[Problem]:
    """A companion that is for messages, or for streams, about which no behavior in the list asks its kind."""
    handled = [cls for handler in catalog.handlers for cls in handler.messages if companion.takes(cls)]
    meant = [*(cls for cls in companion.messages if cls is not object), *handled]
    streams = [cls for cls in meant if is_stream_request(cls)]
    if not _has(catalog, companion.kind, CompanionBehavior) and (not streams or len(streams) < len(meant)):
        text = (
            f"is a {companion.kind.__name__}, and no behavior in the list works with those, so it would never be asked."
        )
        yield Problem(companion.label, companion.cls.__name__, text)
    if streams and not _has(catalog, companion.kind, StreamCompanionBehavior):
        yield from _about_no_stream(companion, streams[0])


def _has(catalog: Catalog, kind: type, users: type[WorksWithCompanions]) -> bool:
    return any(issubclass(each.cls, users) and kind in each.cls.works_with for each in catalog.behaviors)


def _about_no_stream(companion: Binding, stream: type) -> Iterator[Problem]:
    """A companion of a stream request that nobody asks; one for anything is for streams only if its kind can be."""
    asking = _OF_STREAMS.get(companion.kind)
    if asking is None and stream not in companion.messages:
        return
    remedy = f"Put a {asking.__name__} into the list" if asking else "Write a StreamPipelineBehavior"
    text = (
        f"is for {stream.__name__}, which is answered with a stream, and no behavior in the list asks a "
        f"{companion.kind.__name__} about streams, so it would never be asked. {remedy}."
    )
    yield Problem(companion.label, companion.cls.__name__, text)


def _never_validated(catalog: Catalog) -> Iterator[Problem]:
    """Stream requests that can check themselves, where only other messages are asked to."""
    behaviors = [each.cls for each in catalog.behaviors]
    if _includes(behaviors, ValidationBehavior) and not _includes(behaviors, StreamValidationBehavior):
        for handler in catalog.handlers:
            for message in handler.messages if handler.kind is StreamRequestHandler else ():
                if checks_itself(message):
                    text = (
                        f"handles {message.__name__}, whose `validate()` would never be called: the list has no "
                        "StreamValidationBehavior. Put one into it, after authorization."
                    )
                    yield Problem(handler.label, handler.cls.__name__, text)


def _includes(classes: Iterable[type], wanted: type) -> bool:
    return any(issubclass(cls, wanted) for cls in classes)


def _not_async(companion: Binding) -> Iterator[Problem]:
    names: frozenset[str] = getattr(companion.kind, "__abstractmethods__", frozenset())
    for name in sorted(names):
        method: Any = getattr(companion.cls, name)
        if not inspect.iscoroutinefunction(inspect.unwrap(method)):
            text = f"has a `{name}` that is not async. Write `async def {name}(...)`."
            yield Problem(companion.label, companion.cls.__name__, text)


def _wrong_response(companion: Binding) -> Iterator[Problem]:
    if companion.kind not in _TAKING_RESPONSES:
        return
    _, response, *_ = type_arguments(companion.cls, companion.kind) or (Any, Any)
    for message in companion.messages:
        (promised,) = type_arguments(message, Request) or (Any,)
        produces = companion.kind is RequestExceptionHandler
        if not (fits(response, promised) if produces else fits(promised, response)):
            text = (
                f"is for a response {spelled(response)}, but {message.__name__} is a request for {spelled(promised)}."
            )
            yield Problem(companion.label, companion.cls.__name__, text)
