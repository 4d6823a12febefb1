"""Rules for behaviors and their collaborators.

The order of the behaviors has to work, each behavior has to await `call_next()`, and each collaborator has to be used.
"""

import ast
import inspect
import textwrap
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from mediator.behaviors import (
    Authorizer,
    CachingBehavior,
    RequestExceptionHandler,
    RequestPostProcessor,
    StreamAuthorizationBehavior,
    StreamValidationBehavior,
    ValidationBehavior,
    Validator,
)
from mediator.behaviors.validation import checks_itself
from mediator.binding import Binding
from mediator.collaborators import CollaboratorBehavior, StreamCollaboratorBehavior, WorksWithCollaborators
from mediator.dependency_injector.catalog import Catalog, instances_of
from mediator.dependency_injector.graph import Graph
from mediator.dependency_injector.provider_kinds import MAKING_ANEW, effective, is_copy
from mediator.distributed.behaviors import DistributedUnitOfWorkBehavior
from mediator.distributed.inbox import EventConsumer
from mediator.distributed.unit_of_work import UnitOfWork
from mediator.errors import DeclarationError, HandlerNotFoundError, Problem, SettingError
from mediator.handlers import StreamRequestHandler, fits, message_types, spelled, type_arguments
from mediator.messages import Command, Notification, Request, is_request, is_stream_request
from mediator.pipeline import PipelineBehavior
from mediator.registry import Registry
from mediator.streams import StreamPipelineBehavior


def find_behavior_faults(catalog: Catalog) -> Iterator[Problem]:
    """Yield the faults of the behaviors of one mediator."""
    yield from find_order_faults(Registry(catalog.handlers, catalog.behaviors, catalog.collaborators))
    yield from _repeated(catalog.behaviors)
    for behavior in catalog.behaviors:
        yield from _made_anew(behavior)
    for binding in (*catalog.behaviors, *catalog.collaborators):
        yield from _outside_bounds(binding)
    for behavior in catalog.behaviors:
        yield from _not_awaited(behavior)


def find_order_faults(registry: Registry) -> Iterator[Problem]:
    """Yield the faults of behaviors: wrong order, missing or conflicting behaviors, and queries that cannot be cached.

    Each fault is yielded once, with the label of the behavior, and with one message as an example.
    """
    seen: set[tuple[str, str]] = set()
    for message in _messages(registry):
        for behavior, other, text in _order_faults(registry, message):
            if (behavior.label, other.label) not in seen:
                seen.add((behavior.label, other.label))
                yield Problem(behavior.label, behavior.cls.__name__, text)


def find_without_unit_of_work(container: Any, graph: Graph, catalog: Catalog) -> Iterator[Problem]:
    """Yield a problem for each command that runs in no unit of work, but seems to need one.

    A command seems to need a unit of work if the container has a `DistributedUnitOfWorkBehavior`, or if the handler of
    the command gets a unit of work. In a container with an `EventConsumer`, the handler is not looked at: an event
    handler may send the command in the transaction of the consumer.
    """
    transactions = _has(container, DistributedUnitOfWorkBehavior)
    units = () if _has(container, EventConsumer) else (each for _, each, _ in instances_of(container, UnitOfWork))
    given = graph.dependents(units)
    registry = Registry(catalog.handlers, catalog.behaviors, catalog.collaborators)
    for message in _messages(registry):
        handler = next((each for each in catalog.handlers if each.takes(message)), None)
        if handler is None or not _needs_unit_of_work(message):
            continue
        behaviors = _behaviors_of(registry, message)
        if behaviors is None or any(issubclass(each.cls, DistributedUnitOfWorkBehavior) for each in behaviors):
            continue
        if transactions or handler.source in given:
            text = (
                f"handles {message.__name__}, which would run in no unit of work, so its writes would be refused. Put "
                "a DistributedUnitOfWorkBehavior for this command into the list of behaviors. If the command writes "
                "nothing itself, declare in its class `needs_unit_of_work: ClassVar[bool] = False`."
            )
            yield Problem(handler.label, handler.cls.__name__, text)


def _behaviors_of(registry: Registry, message: type) -> Sequence[Binding] | None:
    try:
        return registry.pipeline(message).behaviors
    except (HandlerNotFoundError, DeclarationError, SettingError):  # another rule reports this error
        return None


def _needs_unit_of_work(message: type) -> bool:
    return issubclass(message, Command) and message.needs_unit_of_work


def _has(container: Any, cls: type) -> bool:
    return next(instances_of(container, cls), None) is not None


def _messages(registry: Registry) -> Iterator[type]:
    """Yield the messages that handlers, behaviors and collaborators name.

    A behavior or collaborator may name a class that derives from a handler's message. The derived class has a pipeline
    of its own.
    """
    named = (cls for binding in (*registry.behaviors, *registry.collaborators) for cls in binding.messages)
    yield from dict.fromkeys([*registry.message_types(), *filter(_is_of_the_application, named)])


def _is_of_the_application(cls: type) -> bool:
    return (is_request(cls) or issubclass(cls, Notification)) and cls.__module__ != Notification.__module__


def _order_faults(registry: Registry, message: type) -> Iterator[tuple[Binding, Binding, str]]:
    behaviors = _behaviors_of(registry, message) or ()
    for index, outer in enumerate(behaviors):
        for inner in behaviors[index + 1 :]:
            where = f"in the pipeline of {message.__name__}"
            reason = _asks(inner, "belongs_outside").get(_role(outer))
            if reason is not None:
                remedy = f"Put it before {outer.label} in the list"
                yield inner, outer, f"stands inside the {_role(outer)} {where}: {reason}. {remedy}."
            reason = _asks(outer, "belongs_inside").get(_role(inner))
            if reason is not None:
                remedy = f"Put it after {inner.label} in the list"
                yield outer, inner, f"stands outside the {_role(inner)} {where}: {reason}. {remedy}."
    yield from _missing(behaviors, message)
    yield from _rivals(registry, behaviors, message)
    for behavior in behaviors:
        if issubclass(behavior.cls, CachingBehavior) and not _is_value(message):
            text = (
                f"cannot keep responses of {message.__name__}, which is not hashable by value. Make it frozen "
                "(`@dataclass(frozen=True)`), or narrow the behavior to other queries."
            )
            yield behavior, behavior, text


def _missing(behaviors: Sequence[Binding], message: type) -> Iterator[tuple[Binding, Binding, str]]:
    """Yield the faults of behaviors that would always fail, because a behavior that they need is missing."""
    roles = {_role(behavior) for behavior in behaviors}
    for behavior in behaviors:
        for role, reason in _asks(behavior, "needs").items():
            if role not in roles:
                where = f"in the pipeline of {message.__name__}"
                text = f"has no {role} around it {where}: {reason}. Put one before it in the list."
                yield behavior, behavior, text


def _role(behavior: Binding) -> str | None:
    role: str | None = getattr(behavior.cls, "role", None) or getattr(behavior.cls, "one_of", None)
    return role


def _asks(behavior: Binding, side: str) -> dict[str | None, str]:
    return dict(getattr(behavior.cls, side, {}))


def _rivals(registry: Registry, behaviors: Any, message: type) -> Iterator[tuple[Binding, Binding, str]]:
    """Yield a fault for each behavior that is as specific as the behavior with the same `one_of` in the pipeline."""
    for chosen in behaviors:
        name = getattr(chosen.cls, "one_of", None)
        for other in registry.behaviors if name else ():
            if other.kind is not PipelineBehavior or getattr(other.cls, "one_of", None) != name:
                continue
            same = other.source is chosen.source or other.label == chosen.label
            if same or not other.takes(message) or other.distance(message) != chosen.distance(message):
                continue
            text = (
                f"is one {name} too many for {message.__name__}: {chosen.label} is equally specific, and only one of "
                "the two can apply. Remove one of them from the list, or limit one by its type argument: "
                f"`class Other({other.cls.__name__}[...])`."
            )
            yield other, chosen, text


def _is_value(message: type) -> bool:
    compares: Any = inspect.getattr_static(message, "__eq__")
    return inspect.getattr_static(message, "__hash__") is not None and compares is not object.__eq__


def _repeated(behaviors: Sequence[Binding]) -> Iterator[Problem]:
    """Yield a problem for each behavior that is in the list more than once, as the same provider or as equal providers."""
    counted: dict[Binding, list[Binding]] = {}
    for behavior in behaviors:
        first = next((each for each in counted if _is_again(each, behavior)), behavior)
        counted.setdefault(first, []).append(behavior)
    for first, alike in counted.items():
        if len(alike) > 1:
            labels = list(dict.fromkeys(each.label for each in alike))
            times = {2: "twice"}.get(len(alike), f"{len(alike)} times")
            names = f" ({', '.join(labels)})" if len(labels) > 1 else ""
            text = (
                f"stands in the list of behaviors {times}{names}, and would run {times} around each message. "
                "Remove all but one, or give the providers different arguments."
            )
            yield Problem(first.label, first.cls.__name__, text)


def _is_again(first: Binding, other: Binding) -> bool:
    """Return whether two behaviors in the list have the same provider or equal providers.

    Equal providers of a class with `one_of` do not count, since `_rivals` reports them.
    """
    if first.source is other.source:
        return True
    return getattr(other.cls, "one_of", None) is None and is_copy(first.source, other.source)


def _made_anew(behavior: Binding) -> Iterator[Problem]:
    """Yield a problem if the behavior has to remember something between messages, but is made anew for each message."""
    if getattr(behavior.cls, "made_once", False) and isinstance(effective(behavior.source), MAKING_ANEW):
        text = (
            "is made anew for each message, so it would remember nothing of earlier messages. Write "
            f"`providers.Singleton({behavior.cls.__name__}, ...)`."
        )
        yield Problem(behavior.label, behavior.cls.__name__, text)


def _outside_bounds(binding: Binding) -> Iterator[Problem]:
    """Yield a problem for each type argument that a generic class does not allow."""
    for base in binding.cls.__mro__[1:]:
        parameters: tuple[Any, ...] = getattr(base, "__parameters__", ())
        arguments = type_arguments(binding.cls, base) or ()
        for parameter, argument in zip(parameters, arguments, strict=False):
            allowed = message_types(parameter)
            given = () if argument is Any else message_types(argument)
            wrong = [each for each in given if not issubclass(each, allowed)]
            if allowed and wrong:
                names = " | ".join(each.__name__ for each in allowed)
                text = f"is a {base.__name__} of {wrong[0].__name__}, which does not derive from {names}."
                yield Problem(binding.label, binding.cls.__name__, text)


def _not_awaited(behavior: Binding) -> Iterator[Problem]:
    """Yield a problem if the behavior calls `call_next()` without `await`, so that the rest of the pipeline never runs.

    A behavior whose source code cannot be read is not checked.
    """
    cls: Any = behavior.cls
    handle = inspect.unwrap(cls.handle)
    if behavior.kind is StreamPipelineBehavior or not inspect.iscoroutinefunction(handle):
        return
    name = list(inspect.signature(handle).parameters)[-1]
    try:
        (function,) = ast.parse(textwrap.dedent(inspect.getsource(handle))).body
    except (OSError, TypeError, SyntaxError, ValueError):  # the source is missing, or is only a part of a statement
        return
    for node in _own_nodes(function):
        called: Any = getattr(node.value, "func", None) if isinstance(node, ast.Expr | ast.Return) else None
        if isinstance(called, ast.Name) and called.id == name:
            text = f"calls `{name}()` without `await`, so the rest of the pipeline would never run. Write `await {name}()`."
            yield Problem(behavior.label, behavior.cls.__name__, text)
            return


def _own_nodes(function: ast.AST) -> Iterator[ast.AST]:
    """Yield the nodes of a function without the nodes of functions and classes defined inside it."""
    for node in ast.iter_child_nodes(function):
        if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda | ast.ClassDef):
            yield node
            yield from _own_nodes(node)


_TAKING_RESPONSES = (RequestExceptionHandler, RequestPostProcessor)
_OF_STREAMS: dict[type, type] = {Authorizer: StreamAuthorizationBehavior, Validator: StreamValidationBehavior}


def find_collaborator_faults(catalog: Catalog) -> Iterator[Problem]:
    """Yield the faults of the collaborators of one mediator's behaviors."""
    for collaborator in catalog.collaborators:
        yield from _never_asked(collaborator, catalog)
        yield from _not_async(collaborator)
        yield from _wrong_response(collaborator)
    yield from _never_validated(catalog)


def _never_asked(collaborator: Binding, catalog: Catalog) -> Iterator[Problem]:
    """Yield a problem if no behavior in the list calls the collaborator for its messages, or for its stream requests."""
    handled = [cls for handler in catalog.handlers for cls in handler.messages if collaborator.takes(cls)]
    meant = [*(cls for cls in collaborator.messages if cls is not object), *handled]
    streams = [cls for cls in meant if is_stream_request(cls)]
    if not _is_asked(catalog, collaborator.kind, CollaboratorBehavior) and (not streams or len(streams) < len(meant)):
        kind = collaborator.kind.__name__
        text = f"is a {kind} that would never be called, because no behavior in the list works with a {kind}."
        yield Problem(collaborator.label, collaborator.cls.__name__, text)
    if streams and not _is_asked(catalog, collaborator.kind, StreamCollaboratorBehavior):
        yield from _never_asked_about(streams[0], collaborator)


def _is_asked(catalog: Catalog, kind: type, users: type[WorksWithCollaborators]) -> bool:
    return any(issubclass(each.cls, users) and kind in each.cls.works_with for each in catalog.behaviors)


def _never_asked_about(stream: type, collaborator: Binding) -> Iterator[Problem]:
    """Yield the problem that no behavior calls the collaborator for a stream request.

    A `RequestPreProcessor[Any]` is no problem: it does not name the stream request, and the library has no stream
    behavior that calls preprocessors.
    """
    asking = _OF_STREAMS.get(collaborator.kind)
    if asking is None and stream not in collaborator.messages:
        return
    remedy = f"Put a {asking.__name__} into the list" if asking else "Write a StreamPipelineBehavior"
    text = (
        f"is for the stream request {stream.__name__}. No behavior in the list calls a {collaborator.kind.__name__} "
        f"for stream requests, so this one would never be called for {stream.__name__}. {remedy}."
    )
    yield Problem(collaborator.label, collaborator.cls.__name__, text)


def _never_validated(catalog: Catalog) -> Iterator[Problem]:
    """Yield a problem for each stream request whose `validate()` no behavior would call."""
    behaviors = [each.cls for each in catalog.behaviors]
    if _includes(behaviors, ValidationBehavior) and not _includes(behaviors, StreamValidationBehavior):
        for handler in catalog.handlers:
            for message in handler.messages if handler.kind is StreamRequestHandler else ():
                if checks_itself(message):
                    text = (
                        f"handles {message.__name__}, whose `validate()` would never be called: the list of "
                        "behaviors has no StreamValidationBehavior. Add one after authorization."
                    )
                    yield Problem(handler.label, handler.cls.__name__, text)


def _includes(classes: Iterable[type], wanted: type) -> bool:
    return any(issubclass(cls, wanted) for cls in classes)


def _not_async(collaborator: Binding) -> Iterator[Problem]:
    names: frozenset[str] = getattr(collaborator.kind, "__abstractmethods__", frozenset())
    for name in sorted(names):
        method: Any = getattr(collaborator.cls, name)
        if not inspect.iscoroutinefunction(inspect.unwrap(method)):
            text = f"has a `{name}` that is not async. Write `async def {name}(...)`."
            yield Problem(collaborator.label, collaborator.cls.__name__, text)


def _wrong_response(collaborator: Binding) -> Iterator[Problem]:
    if collaborator.kind not in _TAKING_RESPONSES:
        return
    _, response, *_ = type_arguments(collaborator.cls, collaborator.kind) or (Any, Any)
    for message in collaborator.messages:
        (promised,) = type_arguments(message, Request) or (Any,)
        produces = collaborator.kind is RequestExceptionHandler
        if not (fits(response, promised) if produces else fits(promised, response)):
            text = (
                f"is for a response {spelled(response)}, but {message.__name__} is a request for {spelled(promised)}."
            )
            yield Problem(collaborator.label, collaborator.cls.__name__, text)
