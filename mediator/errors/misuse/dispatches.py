"""Misuse of messages, handlers, behaviors and scopes."""

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
    """Something was sent or published that is not the kind of message this method takes."""
    return MisuseError(message, _kind_problem(message, method))


def _kind_problem(message: object, method: str) -> str:
    if message is None:
        return (
            f"`{method}` was given None, where {_WANTED.get(method, 'a message')} belongs. Look at where it "
            "comes from: is a `return` missing there?"
        )
    if hasattr(message, "cr_code") or hasattr(message, "__await__"):
        name = getattr(message, "__qualname__", name_of(message))
        return (
            f"`{method}` was given the coroutine or future {name}, which nobody awaited, and no message. Write "
            f"`{method}(await ...)` if it gives the message."
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
        f"{name_of(message_type)} is a {' and a '.join(kinds)}, each of which is dispatched in another way. "
        "Derive it from one of them, and make another class for the other.",
    )


def no_handler(request_type: type, nearest: Sequence[str] = ()) -> HandlerNotFoundError:
    """Nothing handles a request. Requests with a name like its own are suggested."""
    name = name_of(request_type)
    hint = f" Did you mean {' or '.join(nearest)}?" if nearest else ""
    streamed = any(base.__name__ == "StreamRequest" for base in request_type.__mro__)
    kind = "StreamRequestHandler" if streamed else "RequestHandler"
    problem = f"{name} has no handler.{hint} Add a provider of a {kind}[{name}, ...] to the container."
    return HandlerNotFoundError(request_type, problem, nearest)


def unknown_type_arguments(message_type: type, base: type, families: Mapping[str, str]) -> HandlerNotFoundError:
    """The type arguments of a message would decide who handles it, and cannot be known.

    Args:
        message_type: The class of the request, notification or event.
        base: The generic class whose type arguments cannot be known.
        families: What each handler (or collaborator of a behavior) is for, by its label: `base` with certain type
            arguments, such as `Page[Student]` or `Page[Student] | Page[Course]`.
    """
    said = " and ".join(f"{label} is for {family}" for label, family in families.items())
    generic = name_of(base)
    example = next(iter(families.values()), f"{generic}[...]").partition(" | ")[0]
    return HandlerNotFoundError(
        message_type,
        f"The type arguments of {name_of(message_type)} cannot be known when it is dispatched: `{example}(...)` makes an "
        f"object of {generic} like any other, but {said}. Derive a class for each, `class Own{generic}({example})`, and "
        f"make messages of that; or let one handler take every {generic}[Any].",
    )


def not_started(message: object) -> MisuseError:
    """The mediator was used before its container was started, or after it was stopped."""
    return MisuseError(
        message,
        f"{name_of(message)} was dispatched outside the lifespan of its container. "
        "Wrap the application in `async with lifespan(container):`.",
    )


def blocking_call(message: object) -> MisuseError:
    """A blocking call was made where it would wait for itself."""
    return MisuseError(
        message,
        f"A blocking call with {name_of(message)} was made inside a dispatch, or in the thread of the event loop, "
        "which would wait for ever. There, await the mediator itself: `await mediator.send(...)`.",
    )


def wrong_owner(part: str, owner: str, user: str) -> MisuseError:
    """Something was used by another process, thread or event loop than the one that it belongs to.

    Args:
        part: What it is.
        owner: Where it belongs.
        user: Where it was used.
    """
    return MisuseError(
        part,
        f"{part} belongs to {owner}, and was used in {user}. Start a container in each process, after "
        "the fork, and in each event loop; from other threads send through a `BlockingMediator`, or with "
        "`asyncio.run_coroutine_threadsafe` in the loop that it belongs to.",
    )


def no_scope(wanted: str) -> ScopeError:
    """A scoped object was asked for while nothing is being dispatched."""
    return ScopeError(
        wanted,
        f"{wanted} was asked for, but no dispatch is running. Scoped objects exist inside `mediator.send()`, "
        "`mediator.publish()` and `async with mediator.scope():`.",
    )


def scope_closed(message: object) -> ScopeError:
    """A scoped object was asked for after its dispatch had ended."""
    return ScopeError(
        message,
        f"The dispatch of {name_of(message)} is over and its scope is closed. Is this a background task that "
        "outlived it? Send a command of its own from there, or await the task before the handler returns. Is it what "
        'follows the `yield` of a FastAPI dependency? Declare that with `Depends(..., scope="function")`.',
    )


def concurrent_dispatch(message: object, running: object) -> ScopeError:
    """Two dispatches were in one scope at the same time."""
    return ScopeError(
        message,
        f"{name_of(message)} and {name_of(running)} would use one unit of work at the same time. Await "
        "dispatches one after the other, or give each its own with `mode=TransactionMode.NEW`.",
    )


def dispatch_depth(limit: int, path: Sequence[object]) -> DispatchDepthError:
    """Dispatches are nested too deeply.

    Args:
        limit: The `max_depth` of the mediator.
        path: The messages that run, outermost first.
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
    """The handlers of a domain event let aggregates record further events, whose handlers do the same, and so on.

    Args:
        limit: The `max_depth` of the mediator.
        path: The events, each recorded by the handlers of the one before it.
    """
    circle = circle_in(path)
    remedy = "They cause each other without end. Break the circle" if circle else "Let fewer follow from each other"
    return DispatchDepthError(
        path[-1] if path else None,
        f"{len(path)} domain events follow from each other, more than max_depth ({limit}): {path_text(path)}. {remedy}, "
        "or raise `max_depth` of the mediator.",
        limit,
        path,
    )


def too_many_domain_events(limit: int, path: Sequence[object]) -> DispatchDepthError:
    """One transaction has more domain events than it may publish.

    Args:
        limit: The `max_domain_events` of the unit of work.
        path: The events that led to the last one, each recorded by the handlers of the one before it.
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
        f"`call_next` was called for {name_of(message)} after {behavior} had ended, when the response was "
        "given already. Await it inside `handle`; is this a task that was not awaited there?",
    )


def returned_early(message: object, behavior: str) -> MisuseError:
    """A behavior returned while the rest of the pipeline, which it had called, was still running."""
    return MisuseError(
        message,
        f"{behavior} returned before what it went on with for {name_of(message)} had ended, in a task "
        "that was not awaited. Await the task inside `handle`, also one that was cancelled.",
    )


def not_awaited(message: object, coroutine: str) -> MisuseError:
    """A behavior or a handler forgot an `await`, so the coroutine that it called has not run."""
    return MisuseError(
        message,
        f"What {name_of(message)} came to is the coroutine {coroutine}, which nobody awaited, so it has not "
        "run. Write `await call_next()` in a behavior, and `await` before what a handler calls.",
    )


def replaced(message: object, replacement: object) -> MisuseError:
    """A behavior went on with a message of another class than the one it was given."""
    name = name_of(message)
    return MisuseError(
        message,
        f"`call_next` was given a {name_of(replacement)} in place of a {name}, and what lies inside was chosen for "
        f"{name}. Pass on a {name} (or one derived from it), or `await mediator.send(...)` the other message.",
    )


def not_a_stream(message: object, given: object) -> MisuseError:
    """The handler of a stream request, or a behavior around it, gave something that `async for` cannot iterate over."""
    return MisuseError(
        message,
        f"The stream of {name_of(message)} got a {name_of(given)} where it needs an async iterator. Write "
        "`async def handle(...)` with `yield` in it; and iterate over `call_next()`, which is not awaited.",
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
    """Handlers would commit transactions of their own before the transaction around them, which may still roll back."""
    return MisuseError(
        notification,
        f"{name_of(notification)} cannot be published with this strategy inside a unit of work: each handler would "
        "commit by itself, although the unit of work may still roll back. Use `mediator.publish_after_commit(...)`, or "
        "`strategy=Sequential()`.",
    )


def cache_key(query: object, reason: str) -> MisuseError:
    """A query cannot be looked up in a cache."""
    return MisuseError(
        query,
        f"{name_of(query)} cannot be the key of a cache: {shown_reason(reason)}. Make it frozen, with fields that are "
        "hashable (a tuple in place of a list), or narrow the behavior to other queries.",
    )
