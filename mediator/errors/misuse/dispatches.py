"""Functions that return the errors for misuse of messages, handlers, behaviors and scopes."""

from collections.abc import Mapping, Sequence

from mediator.errors.misuse.classes import (
    DeclarationError,
    DispatchDepthError,
    HandlerNotFoundError,
    MisuseError,
    ScopeError,
)
from mediator.errors.root import circle_in, name_of, path_text
from mediator.printable import shown_reason

_BASES = {
    "send": "Command or Query",
    "stream": "StreamRequest",
    "publish": "Notification",
    "publish_after_commit": "Notification",
}
_WANTED = {
    "send": "a request",
    "stream": "a stream request",
    "publish": "a notification",
    "publish_after_commit": "a notification",
}


def wrong_kind(message: object, method: str) -> MisuseError:
    """The argument of `send`, `stream` or `publish` is not a message of the kind that the method takes."""
    return MisuseError(message, _kind_problem(message, method))


def _kind_problem(message: object, method: str) -> str:
    if message is None:
        return (
            f"`{method}` was given None instead of {_WANTED.get(method, 'a message')}. Check the function that returned it: "
            "a `return` may be missing there."
        )
    if hasattr(message, "cr_code") or hasattr(message, "__await__"):
        name = getattr(message, "__qualname__", name_of(message))
        return (
            f"`{method}` was given the coroutine or future {name}, which nobody awaited, instead of a message. Write "
            f"`{method}(await ...)` if it returns the message."
        )
    origin = getattr(message, "__origin__", None)
    given = origin if isinstance(origin, type) else message
    cls = given if isinstance(given, type) else type(given)
    kinds = {base.__name__ for base in cls.__mro__}
    if cls is given:
        return f"`{method}` was given the class {cls.__name__} itself. Make a message of it: `{cls.__name__}(...)`."
    if "DistributedEvent" in kinds:
        remedy = "Add it to the DistributedEventBroker: it leaves the process after the commit."
    elif "Notification" in kinds:
        remedy = "A notification is published: `await mediator.publish(...)`."
    elif "StreamRequest" in kinds:
        remedy = "A stream is opened: `async with mediator.stream(...) as items:`."
    elif "Request" in kinds:
        remedy = "A request is sent: `await mediator.send(...)`."
    else:
        remedy = f"Derive its class from {_BASES.get(method, 'Command, Query or Notification')}."
    return f"`{method}` cannot take a {cls.__name__}. {remedy}"


def several_kinds(message_type: type, kinds: Sequence[str]) -> DeclarationError:
    """A message class derives from several kinds of messages, which are dispatched in different ways."""
    return DeclarationError(
        message_type,
        f"{name_of(message_type)} is a {' and a '.join(kinds)}, which are dispatched in different ways. "
        "Derive it from one of them, and write another class for the other.",
    )


def no_handler(request_type: type, nearest: Sequence[str] = ()) -> HandlerNotFoundError:
    """A request has no handler. Requests with a similar name are suggested."""
    name = name_of(request_type)
    hint = f" Did you mean {' or '.join(nearest)}?" if nearest else ""
    streamed = any(base.__name__ == "StreamRequest" for base in request_type.__mro__)
    kind = "StreamRequestHandler" if streamed else "RequestHandler"
    problem = f"{name} has no handler.{hint} Add a provider of a {kind}[{name}, ...] to the container."
    return HandlerNotFoundError(request_type, problem, nearest)


def unknown_type_arguments(message_type: type, base: type, families: Mapping[str, str]) -> HandlerNotFoundError:
    """The handler of a message depends on its type arguments, and these are unknown when it is dispatched.

    Args:
        message_type: The class of the request, notification or event.
        base: The generic class whose type arguments are unknown.
        families: By the label of each handler or collaborator, the messages that it is for: `base` with type arguments,
            such as `Page[Student]` or `Page[Student] | Page[Course]`.
    """
    said = " and ".join(f"{label} is for {family}" for label, family in families.items())
    generic = name_of(base)
    example = next(iter(families.values()), f"{generic}[...]").partition(" | ")[0]
    return HandlerNotFoundError(
        message_type,
        f"The type arguments of {name_of(message_type)} cannot be known when it is dispatched: `{example}(...)` makes an "
        f"object of {generic} that does not keep them, but {said}. Derive a class for each, `class Own{generic}"
        f"({example})`, and send objects of that class; or write one handler for {generic}[Any].",
    )


def not_started(message: object) -> MisuseError:
    """The mediator was used before its container was started, or after it was stopped."""
    return MisuseError(
        message,
        f"{name_of(message)} was dispatched outside the lifespan of its container. "
        "Wrap the application in `async with lifespan(container):`.",
    )


def blocking_call(message: object) -> MisuseError:
    """A blocking call was made in a place where waiting for its result would never end."""
    return MisuseError(
        message,
        f"A blocking call with {name_of(message)} was made inside a dispatch, or in the thread of the event loop, "
        "where it would wait forever. Await the mediator itself there: `await mediator.send(...)`.",
    )


def wrong_owner(part: str, owner: str, user: str) -> MisuseError:
    """An object was used by another process, thread or event loop than the one it belongs to.

    Args:
        part: The name of the object.
        owner: The process, thread or event loop to which it belongs.
        user: The process, thread or event loop that used it.
    """
    return MisuseError(
        part,
        f"{part} belongs to {owner}, and was used in {user}. Start a container in each process, after "
        "the fork, and in each event loop. From other threads send through a `BlockingMediator`, or with "
        "`asyncio.run_coroutine_threadsafe` in the event loop of the object.",
    )


def no_scope(wanted: str) -> ScopeError:
    """A scoped object was requested while no dispatch is running."""
    return ScopeError(
        wanted,
        f"{wanted} was requested, but no dispatch is running. Scoped objects exist inside `mediator.send()`, "
        "`mediator.publish()` and `async with mediator.scope():`.",
    )


def scope_closed(message: object) -> ScopeError:
    """A scoped object was requested after its dispatch had ended."""
    return ScopeError(
        message,
        f"The dispatch of {name_of(message)} is over and its scope is closed. If this is a background task that "
        "outlived the dispatch, send a command from the task, or await the task before the handler returns. If this is the "
        'code after the `yield` of a FastAPI dependency, declare the dependency with `Depends(..., scope="function")`.',
    )


def concurrent_dispatch(message: object, running: object) -> ScopeError:
    """Two dispatches used one scope at the same time."""
    return ScopeError(
        message,
        f"{name_of(message)} and {name_of(running)} would use one unit of work at the same time. Await "
        "dispatches one after the other, or give each its own unit of work with `mode=TransactionMode.NEW`.",
    )


def dispatch_depth(limit: int, path: Sequence[object]) -> DispatchDepthError:
    """Dispatches are nested too deeply.

    Args:
        limit: The `max_depth` of the mediator.
        path: The running messages, outermost first.
    """
    remedy = "They cause each other without end. Break the circle" if circle_in(path) else "Nest less deeply"
    return DispatchDepthError(
        path[-1] if path else None,
        f"{len(path)} dispatches are nested, more than max_depth ({limit}): {path_text(path)}. {remedy}, or raise "
        "`max_depth` of the mediator.",
        limit,
        path,
    )


def domain_event_depth(limit: int, path: Sequence[object]) -> DispatchDepthError:
    """Too many domain events cause each other: the handlers of each event make aggregates record the next one.

    Args:
        limit: The `max_depth` of the mediator.
        path: The events. Each was recorded by the handlers of the event before it.
    """
    circle = circle_in(path)
    remedy = "They cause each other without end. Break the circle" if circle else "Let fewer events cause each other"
    return DispatchDepthError(
        path[-1] if path else None,
        f"{len(path)} domain events caused each other, more than max_depth ({limit}): {path_text(path)}. {remedy}, "
        "or raise `max_depth` of the mediator.",
        limit,
        path,
    )


def too_many_domain_events(limit: int, path: Sequence[object]) -> DispatchDepthError:
    """One transaction records more domain events than it may publish.

    Args:
        limit: The `max_domain_events` of the unit of work.
        path: The events that led to the last event. Each was recorded by the handlers of the event before it.
    """
    remedy = "They cause each other without end. Break the circle" if circle_in(path) else "Do less in one command"
    return DispatchDepthError(
        path[-1] if path else None,
        f"One transaction has more domain events than max_domain_events ({limit:,}): {path_text(path)}. {remedy}, or "
        "raise `max_domain_events` of the unit of work.",
        limit,
        path,
    )


def called_late(message: object, behavior: str) -> MisuseError:
    """A behavior called `call_next` after its `handle` had returned."""
    return MisuseError(
        message,
        f"`call_next` was called for {name_of(message)} after {behavior} had ended. "
        "Await `call_next()` inside `handle`; a task that calls it must be awaited there too.",
    )


def returned_early(message: object, behavior: str) -> MisuseError:
    """A behavior returned while its `call_next()` was still running."""
    return MisuseError(
        message,
        f"{behavior} returned while its `call_next()` for {name_of(message)} was still running, in a task that was not "
        "awaited. Await the task inside `handle`, even after cancelling it.",
    )


def not_awaited(message: object, coroutine: str) -> MisuseError:
    """A behavior or a handler did not await a coroutine, so the coroutine has not run."""
    return MisuseError(
        message,
        f"The response to {name_of(message)} is the coroutine {coroutine}, which nobody awaited, so it has not run. Write "
        "`await call_next()` in a behavior, and `await` before the calls of a handler.",
    )


def replaced(message: object, replacement: object) -> MisuseError:
    """A behavior gave `call_next` a message of a different class."""
    name = name_of(message)
    return MisuseError(
        message,
        f"`call_next` was given a {name_of(replacement)} in place of a {name}, but the rest of the pipeline was "
        f"compiled for {name}. Pass on a {name} or an instance of a subclass, or send the other message with "
        "`await mediator.send(...)`.",
    )


def not_a_stream(message: object, given: object) -> MisuseError:
    """The `handle` of a stream handler or a stream behavior did not return an async iterator."""
    return MisuseError(
        message,
        f"The stream of {name_of(message)} got a {name_of(given)} where it needs an async iterator. Write "
        "`async def handle(...)` with `yield` in it, and iterate over `call_next()` without awaiting it.",
    )


def stream_not_open(message: object) -> MisuseError:
    """A stream was iterated before it was opened, or after it was closed."""
    name = name_of(message)
    return MisuseError(
        message,
        f"The stream of {name} is not open. Iterate inside `async with mediator.stream({name}(...)) as items:`.",
    )


def stream_already_open(message: object) -> MisuseError:
    """A stream was opened again while it was open."""
    return MisuseError(
        message,
        f"The stream of {name_of(message)} is open already. Each `async with` needs a `mediator.stream(...)` of its own.",
    )


def concurrent_publish(notification: object) -> MisuseError:
    """A notification whose handlers commit separately was published inside a unit of work, which may still roll back."""
    return MisuseError(
        notification,
        f"{name_of(notification)} cannot be published with this strategy inside a unit of work: each handler would "
        "commit by itself, although the unit of work may still roll back. Use `mediator.publish_after_commit(...)`, or "
        "`strategy=Sequential()`.",
    )


def cache_key(query: object, reason: str) -> MisuseError:
    """A query cannot be the key of a cache, because it is not hashable."""
    return MisuseError(
        query,
        f"{name_of(query)} cannot be the key of a cache: {shown_reason(reason)}. Make its class frozen, with "
        "hashable fields (a tuple instead of a list), or restrict the behavior to other queries.",
    )
