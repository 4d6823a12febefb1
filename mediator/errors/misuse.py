"""Functions that return a `MisuseError`, one for each mistake. The docstring of a function describes the mistake.

`raise misuse.not_awaited(message, coroutine)` raises a `MisuseError` whose `subject` is the message. Most mistakes have
no class of their own, because callers do not handle them separately.
"""

from collections.abc import Mapping, Sequence

from mediator.errors.misuse_errors import (
    DeclarationError,
    DispatchDepthError,
    GroupOrderingError,
    HandlerNotFoundError,
    MisuseError,
    NoUnitOfWorkError,
    SchemaError,
    ScopeError,
    StaleObjectError,
)
from mediator.errors.root import circle_in, name_of, path_text
from mediator.printable import shown_reason

_KINDS = {
    "send": ("a request", "Command or Query"),
    "stream": ("a stream request", "StreamRequest"),
    "publish": ("a notification", "Notification"),
    "publish_after_commit": ("a notification", "Notification"),
}


def wrong_kind(message: object, method: str) -> MisuseError:
    """The argument of `send`, `stream` or `publish` is not a message of the kind that the method takes."""
    return MisuseError(message, _kind_problem(message, method))


def _kind_problem(message: object, method: str) -> str:
    wanted, base = _KINDS.get(method, ("a message", "Command, Query or Notification"))
    if message is None:
        return (
            f"`{method}` was given None instead of {wanted}. Check the function that returned it: "
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
        remedy = "Add it to the DistributedEventBroker. The event then leaves the process after the commit."
    elif "Notification" in kinds:
        remedy = "A notification is published: `await mediator.publish(...)`."
    elif "StreamRequest" in kinds:
        remedy = "A stream is opened: `async with mediator.stream(...) as items:`."
    elif "Request" in kinds:
        remedy = "A request is sent: `await mediator.send(...)`."
    else:
        remedy = f"Derive its class from {base}."
    return f"`{method}` cannot take a {cls.__name__}. {remedy}"


def several_kinds(message_type: type, kinds: Sequence[str]) -> DeclarationError:
    """A message class derives from several kinds of messages, which are dispatched in different ways."""
    return DeclarationError(
        message_type,
        f"{name_of(message_type)} is a {' and a '.join(kinds)}, which are dispatched in different ways. "
        "Derive it from one of them, and write a separate class for each other kind.",
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
    """The handler depends on the type arguments of the message, which are unknown when the message is dispatched.

    `families` maps the label of each handler or collaborator to its messages, such as `Page[Student]` or
    `Page[Student] | Page[Course]`. In this example, `base` is the generic class `Page`.
    """
    said = " and ".join(f"{label} is for {family}" for label, family in families.items())
    generic = name_of(base)
    example = next(iter(families.values()), f"{generic}[...]").partition(" | ")[0]
    return HandlerNotFoundError(
        message_type,
        f"The type arguments of {name_of(message_type)} cannot be known when it is dispatched: `{example}(...)` makes "
        f"a plain {generic} object, and its type arguments are lost. But {said}. Derive one class for each of these "
        f"types, such as `class Own{generic}({example})`, and send objects of these classes; or write one handler for "
        f"{generic}[Any].",
    )


def not_started(message: object) -> MisuseError:
    """The mediator was used before its container was started, or after the container was stopped."""
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
    """An object was used outside the process, thread or event loop to which the object belongs."""
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
        "dispatches one after the other, or give each dispatch its own unit of work with `mode=TransactionMode.NEW`.",
    )


def dispatch_depth(limit: int, path: Sequence[object]) -> DispatchDepthError:
    """Dispatches are nested deeper than `max_depth`. `path` has the running messages, outermost first."""
    what = f"{len(path)} dispatches are nested, more than max_depth ({limit})"
    return _too_deep(limit, path, what, "Nest less deeply", "`max_depth` of the mediator")


def domain_event_depth(limit: int, path: Sequence[object]) -> DispatchDepthError:
    """Domain events cause each other in a chain longer than `max_depth`.

    The handlers of each event in `path` made aggregates record the next event.
    """
    what = f"{len(path)} domain events caused each other, more than max_depth ({limit})"
    return _too_deep(limit, path, what, "Let fewer events cause each other", "`max_depth` of the mediator")


def too_many_domain_events(limit: int, path: Sequence[object]) -> DispatchDepthError:
    """One transaction records more domain events than the `max_domain_events` of its unit of work.

    The handlers of each event in `path` recorded the next event.
    """
    what = f"One transaction has more domain events than max_domain_events ({limit:,})"
    return _too_deep(limit, path, what, "Do less in one command", "`max_domain_events` of the unit of work")


def _too_deep(limit: int, path: Sequence[object], what: str, advice: str, setting: str) -> DispatchDepthError:
    remedy = "They cause each other without end. Break the circle" if circle_in(path) else advice
    text = f"{what}: {path_text(path)}. {remedy}, or raise {setting}."
    return DispatchDepthError(path[-1] if path else None, text, limit, path)


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


# Distributed events, and requests to other applications.


def no_event(message: object) -> MisuseError:
    """Something that is not a distributed event was added to the broker."""
    cls = message if isinstance(message, type) else type(message)  # a text is not shown, because it may be a payload
    return MisuseError(
        message,
        f"{name_of(cls)} is not a DistributedEvent and cannot leave the process. Publish a notification "
        "with `await mediator.publish(...)`, or derive the class from DistributedEvent.",
    )


def event_declaration(event_class: type, problem: str) -> DeclarationError:
    """An event class declares no type or no version for the wire, or a wrong type, version or key locking."""
    return DeclarationError(
        event_class,
        f"{name_of(event_class)} {problem}. Declare "
        '`event_type: ClassVar[str] = "<domain>.<name>"` and `event_version: ClassVar[int] = 1`. Domain and name each '
        'have up to 64 lower-case letters, digits and hyphens. `key_locking` is optional: "strict" or "row".',
    )


def upcaster_declaration(event_class: type, problem: str) -> DeclarationError:
    """An event class declares upcasters that cannot convert older versions to its own version."""
    return DeclarationError(
        event_class,
        f"{name_of(event_class)} {problem}. Declare a plain function for each older version, without a "
        "gap: `upcasters: ClassVar[Mapping[int, Upcaster]] = {1: from_v1, 2: from_v2}` with `event_version` 3.",
    )


def event_schema(event_class: type, reason: str) -> DeclarationError:
    """The payload of an event class has no schema, or no sample of the payload can be generated."""
    return DeclarationError(
        event_class,
        f"{name_of(event_class)} cannot be frozen: {shown_reason(reason)}. If only the generated sample is at fault, "
        "give a sample: `freeze_events([OrderPlaced(...)], folder)`.",
    )


def request_declaration(request_class: type, problem: str) -> DeclarationError:
    """A request class declares no name by which other applications know it, or a wrong name."""
    return DeclarationError(
        request_class,
        f"{name_of(request_class)} {problem}. Declare it as `class {name_of(request_class)}"
        '(Query[Response])` with `request_type: ClassVar[str] = "<domain>.<name>"`, both of lower-case letters, digits '
        "and hyphens, and fields and a response that JSON can represent.",
    )


def delivery_time(event: object, problem: str) -> MisuseError:
    """An event cannot be delayed as requested. If the error is raised during the commit, nothing is committed."""
    return MisuseError(
        event,
        f"{name_of(event)} cannot be delayed: {problem}. Give `deliver_at` a timezone-aware datetime, such as "
        '`datetime.now(UTC) + timedelta(hours=1)`, and use `delivery="outbox"`.',
    )


def group_ordering(group: str, ordering: str, stream: str, consumer: str) -> GroupOrderingError:
    """An existing consumer shows that the consumer group used a different ordering before."""
    return GroupOrderingError(
        group,
        f"The group {group} cannot consume {stream} with ordering={ordering!r}: the consumer {consumer} shows that the "
        "group used the other ordering before, and the group's position cannot be converted. Use another group; or "
        f"stop every instance of this group and delete its consumers on {stream}. The group then starts where `start` "
        "says, and the inbox recognizes the events that the group has handled before.",
    )


# Units of work, their databases, and idempotency keys.


def no_unit_of_work(subject: object, running: str = "") -> NoUnitOfWorkError:
    """An operation needs its unit of work, but that unit of work is not running.

    `subject` is the name of the operation, or the object that was to be stored or published. `running` describes a
    different unit of work that is running; it is empty when no unit of work is running.
    """
    if running:
        return NoUnitOfWorkError(
            subject,
            f"{name_of(subject)} needs its own unit of work, but a different one is running in this scope: "
            f"{running}. A command writes through one unit of work, in one database. Use the session of the running unit of "
            "work, or send a command for the other database with `mode=TransactionMode.NEW`.",
        )
    return NoUnitOfWorkError(
        subject,
        f"{name_of(subject)} needs a unit of work, and none is running. Do it in the handler of a command "
        "whose pipeline has a DistributedUnitOfWorkBehavior, or inside `async with unit_of_work:`.",
    )


def read_only(subject: object, query: object) -> NoUnitOfWorkError:
    """An operation that needs a unit of work was used in the read-only transaction of a query."""
    return NoUnitOfWorkError(
        subject,
        f"{name_of(subject)} needs a unit of work, but {name_of(query)} is answered in a read-only "
        "transaction. Make the query a command, or send a command for the change with `mode=TransactionMode.NEW`.",
    )


def already_running(transaction_id: str) -> MisuseError:
    """A unit of work that is already running in this scope was begun again."""
    return MisuseError(
        transaction_id,
        f"Unit of work {transaction_id} is already running in this scope. Join it, or open another scope with "
        "`mediator.scope(TransactionMode.NEW)`.",
    )


def still_ending(unit_of_work: object) -> MisuseError:
    """A unit of work was begun before the database has answered the COMMIT or ROLLBACK of the last one in its scope."""
    return MisuseError(
        unit_of_work,
        "The last unit of work of this scope still waits for the answer to its COMMIT or ROLLBACK. Open another scope "
        "with `mediator.scope(TransactionMode.NEW)`.",
    )


def another_running(running: str) -> MisuseError:
    """A unit of work was begun while a different unit of work is running in the same scope."""
    return MisuseError(
        running,
        f"Another unit of work is running in this scope: {running}. A scope has one unit of work at a time, and a command "
        "writes to one database. End that unit of work first, or open another scope with "
        "`mediator.scope(TransactionMode.NEW)`.",
    )


def shared_by_dispatches(transaction_id: str, name: str) -> MisuseError:
    """Two dispatches use the same unit of work object. `name` is the name of the object's class."""
    return MisuseError(
        transaction_id,
        f"Unit of work {transaction_id} is running in another dispatch, and this dispatch was given the same object. Each "
        f"dispatch needs its own object: declare it as `Scoped({name}, ...)`, not as a Singleton.",
    )


def other_unit_of_work(part: object, unit_of_work: object) -> MisuseError:
    """Two parts must use the same unit of work and the same database, but use different ones."""
    return MisuseError(
        part,
        f"{name_of(part)} cannot be used with this {name_of(unit_of_work)}: it belongs to another unit of work or "
        "database. Give all parts the unit of work of one `Scoped` provider, and use one database for outbox, inbox "
        "and unit of work.",
    )


def isolation_not_supported(database: str, isolation: str) -> MisuseError:
    """A database does not support the requested isolation level."""
    return MisuseError(database, f"{database} cannot run a transaction at isolation level {isolation!r}.")


def session_ended(operation: str, transaction_id: str) -> MisuseError:
    """A handler committed or rolled back a session, which only the unit of work may do."""
    return MisuseError(
        f"session.{operation}()",
        f"`session.{operation}()` was called inside unit of work {transaction_id}. The unit of work commits "
        "when the command succeeds and rolls back when it raises; the handler does neither. For a part that may "
        "fail, use `session.begin_nested()` or `TransactionMode.NESTED`.",
    )


def stale_object(entity: type, reason: str) -> StaleObjectError:
    """An object was loaded in an earlier transaction and then changed. Writing it could overwrite newer values."""
    return StaleObjectError(
        entity,
        f"An object of {name_of(entity)} was loaded before this transaction began, and was changed or added in it: "
        f"{reason}. Load it in the transaction that changes it: `await session.get(...)`, or "
        "`await session.refresh(...)` before the change.",
        reason,
    )


def nested_writer(database: str) -> MisuseError:
    """An inner unit of work would write to an SQLite file to which an outer unit of work is already writing."""
    return MisuseError(
        database,
        f"This unit of work would wait forever: an outer one is already writing to {database}, and SQLite allows one "
        "writer. Join it (TransactionMode.DEFAULT or NESTED), or send the inner command before the outer one's "
        "first statement.",
    )


def nested_lock(database: str, seconds: float) -> MisuseError:
    """An inner unit of work waited too long for a PostgreSQL lock, which the outer unit of work may hold."""
    return MisuseError(
        database,
        f"This unit of work runs inside another one and waited {seconds:g} s for a lock in {database}. If the "
        "outer one holds the lock, both would wait forever. Join the outer one (TransactionMode.DEFAULT or NESTED), write "
        "other rows, or raise `lock_timeout` if another process held the lock.",
    )


def pool_too_small(pool: object, size: int) -> MisuseError:
    """More dispatches are nested than the pool has connections, so the innermost dispatch would wait forever."""
    return MisuseError(
        pool,
        f"All {size} connections of the pool are held by the dispatches around this one, which wait for it to end. "
        "Nest fewer dispatches with TransactionMode.NEW or SUPPRESS, or raise `pool_size` or `max_overflow` of the engine.",
    )


def no_table(database: str, table: str) -> SchemaError:
    """A table of this library is missing in the database."""
    return SchemaError(
        database,
        f"The database {database} has no table {table}. Create the tables with "
        "`mediator schema create module:container`, or with `await create_schema(engine)`.",
    )


def no_rows(database: str, table: str, rows: int, needed: int) -> SchemaError:
    """A table of this library lacks some of its initial rows."""
    return SchemaError(
        database,
        f"The table {table} in the database {database} has {rows} of the {needed} rows that relays "
        "need, so nothing is published, and the events wait. Add the missing rows with `mediator schema create "
        "module:container`, with `await create_schema(engine)`, or in a migration of your own with `schema_rows`.",
    )


def schema_outdated(database: str, version: int, needed: int) -> SchemaError:
    """The tables in the database belong to an older version of the library."""
    return SchemaError(
        database,
        f"The tables in the database {database} are of version {version}, and this library needs version "
        f"{needed}. Upgrade them with `mediator schema upgrade module:container`, or with "
        "`await upgrade_schema(engine)`.",
        version,
    )


def schema_newer(database: str, version: int, known: int) -> SchemaError:
    """The tables in the database belong to a newer version of the library."""
    return SchemaError(
        database,
        f"The tables in the database {database} are of version {version}, and this library knows versions up to "
        f"{known}. Nothing was changed. Install the version of the library that upgraded them, or a later "
        "one.",
        version,
    )


def empty_key(command: object) -> MisuseError:
    """The idempotency key of a command is an empty text."""
    problem = f"The idempotency key of {name_of(command)} is empty. Use None for a command without a key."
    return MisuseError(command, problem)


def not_repeatable(command: object, part: str, reason: str) -> MisuseError:
    """A command with an idempotency key cannot be stored, because its payload or its response cannot be encoded.

    `part` names the payload or the response. The `reason` must not contain values of the command.
    """
    return MisuseError(
        command,
        f"{name_of(command)} has an idempotency key, but {part} cannot be encoded or decoded: {shown_reason(reason)}. "
        "Use types that the codec supports, or give the Idempotency another `codec`.",
    )
