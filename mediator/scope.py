"""Scope: the objects and the transaction that a dispatch shares with the dispatches that join it.

A frame is one running dispatch. A context variable holds the innermost frame, and each frame refers to its parent. A
frame that joins its parent uses the scope of the parent. At the end of a frame the variable is set to the parent.
`ContextVar.reset` is not used, because generators and fixtures are often closed in a context in which `reset` fails.
"""

from asyncio import AbstractEventLoop, CancelledError
from collections.abc import Generator
from contextvars import Context, ContextVar, copy_context
from dataclasses import replace
from threading import Lock
from typing import Any, NoReturn

from mediator.blocks import ExitCallback, call_all, contextmanager, raise_failures
from mediator.context import MessageContext
from mediator.errors import (
    CommitOutcomeUnknownError,
    CommittedError,
    NotStoredError,
    NoUnitOfWorkError,
    RolledBackError,
    misuse,
)
from mediator.errors.root import name_of
from mediator.messages import Origin
from mediator.owner import running_loop
from mediator.transactions import Outcome, Transaction, TransactionEnd, TransactionMode, check_mode

# Each member of the enumerations is looked up only once, because the look-up is slow.
_DEFAULT, _NESTED, _SUPPRESS = TransactionMode.DEFAULT, TransactionMode.NESTED, TransactionMode.SUPPRESS
_NO_RESPONSE: Any = object()
_NONE, _COMMITTED, _UNKNOWN, _ROLLED_BACK = Outcome.NONE, Outcome.COMMITTED, Outcome.UNKNOWN, Outcome.ROLLED_BACK


class Scope:
    """Keeps the objects of a dispatch, shares them with the dispatches that join, and closes them at the end.

    Attributes:
        transaction: The running transaction. Several transactions may run in one scope, one after the other.
        transactional: Whether a transaction may begin in this scope.
        outcome: The outcome of the last transaction.
        response: The response of the command whose transaction committed last.
        settled_id: The id of the last transaction that committed or whose outcome is unknown.
        committed: The end of the last transaction that committed; `None` if no transaction has committed.
        closed: Whether the dispatch that opened the scope is over.
        innermost: The innermost running dispatch of this scope.
        exits: The callbacks to call at the end of the scope; `None` if there are none.
        loop: The event loop in which the scope was created; `None` if a thread without an event loop created the scope.
    """

    __slots__ = (
        "_kept",
        "closed",
        "committed",
        "exits",
        "innermost",
        "loop",
        "outcome",
        "response",
        "settled_id",
        "transaction",
        "transactional",
    )

    def __init__(self) -> None:
        self.transaction: Transaction | None = None
        self.transactional: bool = True
        self.outcome: Outcome = _NONE
        self.response: Any = None
        self.settled_id: str | None = None
        self.committed: TransactionEnd | None = None
        self.closed: bool = False
        self.innermost: Frame | None = None
        self.exits: list[ExitCallback] | None = None
        self._kept: dict[Any, Any] | None = None
        self.loop: AbstractEventLoop | None = running_loop()

    @property
    def instances(self) -> dict[Any, Any]:
        """The objects that are kept in the scope, by key."""
        if self._kept is None:
            self._kept = {}
        return self._kept

    def keep(self, key: Any, value: Any) -> None:
        """Keep an object in the scope, as `instances[key] = value` does."""
        if self._kept is None:
            self._kept = {key: value}
        else:
            self._kept[key] = value

    def kept(self, key: Any, default: Any = None) -> Any:
        """Return the object that is kept under a key, or the default. This method is faster than `instances`."""
        return default if self._kept is None else self._kept.get(key, default)

    def begin(self, transaction: Transaction) -> None:
        """Make a transaction the running transaction, and forget the outcome of the transaction before it."""
        self.transaction = transaction
        self.outcome, self.response = _NONE, None

    def end(self, outcome: Outcome, transaction_id: str, response: Any = None) -> None:
        """Record the outcome of the running transaction, and let another transaction begin."""
        self.transaction = None
        self.outcome, self.response = outcome, response
        if outcome is not _ROLLED_BACK:
            self.settled_id = transaction_id

    @contextmanager
    def reading(self, transaction: Transaction) -> Generator[None, None, None]:
        """Make a read-only transaction the running transaction in the body. `outcome` does not change."""
        self.transaction = transaction
        try:
            yield
        finally:
            self.transaction = None

    def close_to_others(self) -> None:
        """Let no further dispatch join the scope."""
        self.innermost = None

    def open_to_others(self, frame: "Frame") -> None:
        """After `close_to_others`, let dispatches inside a frame join the scope again."""
        if self.innermost is None:
            self.innermost = frame

    def hand_back(self, frame: "Frame", to: "Frame | None") -> None:
        """Make `to` the innermost dispatch, if `frame` is the innermost dispatch now."""
        if self.innermost is frame:
            self.innermost = to

    @property
    def running(self) -> object:
        """The message of the innermost dispatch, for the texts of errors."""
        return self.innermost.message if self.innermost else "a dispatch"

    def on_exit(self, callback: ExitCallback) -> None:
        """Call `callback(error or None)`, sync or async, when the scope ends. The newest callback is called first."""
        if self.exits is None:
            self.exits = []
        self.exits.append(callback)

    async def close(self, error: BaseException | None) -> None:
        """Roll back a transaction that was left open, and call every exit callback, even if some fail or are cancelled.

        Raises:
            BaseException: A callback failed. Several failures are raised as a group; a cancellation is raised alone.
                If `error` is given, the failures are added to `error` as notes and not raised.
        """
        self.closed = True
        if self.transaction is not None:
            self.on_exit(lambda _: self._abandon())  # the callback that is added last is called first
        failures = await call_all(self.exits, error) if self.exits else ()
        self._kept = None
        raise_failures("scope", failures, error)

    def forget(self) -> None:
        """Drop the references to frames and objects, so that no reference cycle keeps the scope in memory."""
        self.innermost = self._kept = self.committed = None

    async def _abandon(self) -> None:
        if self.transaction is not None:
            await self.transaction.abandon()


class Frame:
    """One running dispatch: its message, its scope, its mediator and its parent.

    The parent is the dispatch in which this dispatch began.
    """

    __slots__ = ("depth", "ending", "made_context", "made_scope", "message", "origin", "over", "owner", "parent")

    ending: TransactionEnd | None
    made_scope: Scope | None
    over: bool
    parent: "Frame | None"
    message: object
    origin: Origin
    owner: bool
    depth: int
    made_context: MessageContext | None

    @property
    def scope(self) -> Scope:
        """The scope, which is created at the first access. `made_scope` is `None` if there is no scope yet."""
        if self.made_scope is None:
            with _making:  # a thread that works for the dispatch may access the scope at the same time
                if self.made_scope is None:
                    scope = Scope()
                    scope.innermost = None if self.over else self
                    self.made_scope = scope
                    scope.closed = self.over  # `over` is read last: another thread may have just ended the dispatch
        return self.made_scope

    @property
    def closed(self) -> bool:
        """True when the dispatch that opened the scope is over."""
        return self.over if self.made_scope is None else self.made_scope.closed

    @property
    def context(self) -> MessageContext:
        """The context of the message, which is created at the first access."""
        if self.made_context is None:
            message_id, parent = self.origin.ids(), self.parent
            self.made_context = parent.context.caused(message_id) if parent else MessageContext(message_id, message_id)
        return self.made_context

    def suspend(self) -> None:
        """Make the parent the running dispatch until the next `resumed`. A stream does this between two items."""
        _frame.set(self.parent)
        if not self.owner:
            self.scope.innermost = self.parent

    @contextmanager
    def resumed(self) -> Generator[None, None, None]:
        """Make this frame the running dispatch during the body.

        If the scope of the frame is closed, or another dispatch is using that scope, a `ScopeError` is raised.
        """
        scope, before, innermost = self.scope, _frame.get(), self.scope.innermost
        if scope.closed:
            raise misuse.scope_closed(self.message)
        if not self.owner and not _same_dispatch(innermost, before):
            raise misuse.concurrent_dispatch(self.message, scope.running)
        scope.innermost = self
        _frame.set(self)
        try:
            yield
        finally:
            scope.innermost = self if self.owner else innermost
            _frame.set(before)

    @property
    def dispatch(self) -> "Frame | None":
        """The frame itself. For an `AmbientFrame`, which only carries a context: the dispatch around the frame."""
        return self

    def refuse(self, max_depth: int) -> NoReturn:
        """Raise a `DispatchDepthError` that names all running dispatches, because this dispatch is nested too deeply."""
        path: list[object] = []
        frame: Frame | None = self
        while frame is not None and len(path) < self.depth:
            path += [frame.message] if frame.dispatch is frame else []
            frame = frame.parent
        raise misuse.dispatch_depth(max_depth, path[::-1])

    def check_last(self) -> None:
        """Raise a `ScopeError` if a joined dispatch still runs, for example in a task that nobody awaited."""
        if not _same_dispatch(self.scope.innermost, self):
            raise misuse.concurrent_dispatch(self.message, self.scope.running)

    def leave_quietly(self) -> bool:
        """End a dispatch that succeeded, and return True. If the caller must await `leave` instead, return False."""
        scope = self.made_scope
        if scope is None:  # no dispatch has joined, and no object is kept
            self.over = True
            if self.made_scope is None:
                _frame.set(self.parent)
                self.message = self.message.__class__  # as in `forget`
                return True
            scope = self.made_scope  # another thread has just created the scope
        if scope.innermost is not self or (self.owner and (scope.exits or scope.transaction is not None)):
            return False
        if self.owner:
            scope.closed = True
            scope.forget()
        else:
            scope.innermost = self.parent
        _frame.set(self.parent)
        self.ending = None
        self.message = self.message.__class__  # as in `forget`
        return True

    def forget(self) -> None:
        """Replace the message by its class, whose name is enough for error texts after the dispatch.

        A kept message could stay in memory for long: every task and timer that was created in the dispatch has a copy
        of the context variables, and this copy refers to the frame.
        """
        if not isinstance(self.message, str | type):
            self.message = type(self.message)

    async def leave(self, error: BaseException | None = None, response: Any = _NO_RESPONSE) -> None:
        """End the dispatch: make its parent the running frame, and close the scope if this dispatch opened the scope.

        Args:
            error: The error with which the dispatch failed; `None` if it succeeded.
            response: The response, if there is one.

        Raises:
            CommittedError: The dispatch succeeded and a transaction in its scope committed, but closing the scope failed.
            NotStoredError: A transaction in its scope committed, but the scope has changes or events that were not stored.
            asyncio.CancelledError: Closing the scope was cancelled. If a transaction committed, or may have committed,
                the cause of the error says this.
            ScopeError: A dispatch that joined this dispatch is still running.
        """
        try:
            await self._leave(error)
        except Exception as failure:
            committed = self.scope.committed
            if error is not None or committed is None:
                raise
            answer, message = committed.response, committed.message
            if response is not _NO_RESPONSE:
                answer, message = response, self.message
            if isinstance(failure, NoUnitOfWorkError):
                problem = str(misuse.no_unit_of_work(failure.subject))
                raised = NotStoredError(failure.subject, problem, committed.transaction_id, answer, message=message)
                raise raised from failure
            raise CommittedError(committed.transaction_id, answer, message=message) from failure
        except CancelledError as cancellation:
            ending = self.ending if error is not None else self.scope.committed
            if ending is not None and response is not _NO_RESPONSE:
                ending = replace(ending, message=self.message, response=response)
            _raise_with_outcome(cancellation, ending)
            raise
        finally:
            self.forget()
            if self.owner:
                self.scope.committed = None
            if error is None:
                self.ending = None  # after an error, `raise_with_outcome` still needs the ending

    async def _leave(self, error: BaseException | None) -> None:
        scope, last = self.scope, _same_dispatch(self.scope.innermost, self)
        try:
            if self.owner:
                if not last and error is None:
                    failure = misuse.concurrent_dispatch(self.message, scope.running)
                    await scope.close(failure)
                    raise failure
                await scope.close(error)
                if last:
                    scope.innermost = None
            elif last:
                scope.innermost = self.parent
        finally:
            self.step_out()

    def pass_on_commit(self, outer: "Frame") -> None:
        """Copy the last commit in the scope of this frame to the scope of the outer frame."""
        if self.made_scope is not None and self.made_scope.committed is not None:
            outer.scope.committed = self.made_scope.committed

    def settle(self, outcome: Outcome, transaction_id: str, response: Any = None) -> None:
        """Record the end of a transaction that this dispatch began.

        After several transactions, the last commit is kept. Without a commit, the last unknown outcome is kept. If all
        transactions were rolled back, the last rollback is kept.
        """
        ending, before = TransactionEnd(outcome, transaction_id, self.message, response), self.ending
        if outcome is _COMMITTED:
            self.ending = self.scope.committed = ending
        elif before is None or before.outcome is _ROLLED_BACK or (outcome is _UNKNOWN and before.outcome is _UNKNOWN):
            self.ending = ending

    def failed(self, error: BaseException) -> None:
        """Record the error of the transaction. The dispatch must raise this error or an error with the same outcome."""
        if self.ending is not None and self.ending.outcome is not _COMMITTED:
            self.ending.failure = error

    def answered(self, response: Any) -> None:
        """Record that a behavior outside the transaction deliberately returned a response, perhaps in place of an error."""
        ending = self.ending
        if ending is not None:
            ending.response, ending.failure = response, None
            if ending.outcome is _ROLLED_BACK:
                self.ending = None

    def check_outcome(self) -> None:
        """Check that a response is not returned for a transaction that did not commit.

        Raises:
            RolledBackError: The transaction rolled back, but a behavior outside the transaction returned a response.
            CommitOutcomeUnknownError: The outcome of the transaction is unknown, but a behavior outside the transaction
                returned a response.
        """
        ending = self.ending
        if ending is None or ending.failure is None:
            return
        failure = ending.failure
        if ending.outcome is _UNKNOWN:
            raise ending.failure if isinstance(failure, CommitOutcomeUnknownError) else _unknown(ending)
        raised = RolledBackError(ending.transaction_id, ending.message, failure, answered=True)
        raise raised from failure

    def with_outcome(self, error: Exception) -> Exception:
        """Return the error to raise in place of `error`, so that the sender learns the outcome of the transaction.

        After a commit, the result is a `CommittedError`. After an unknown outcome, the result is a
        `CommitOutcomeUnknownError`. After a rollback, if `error` claims a commit or an unknown outcome, the result is a
        `RolledBackError`. In all other cases `error` itself is returned.
        """
        ending, raised = self.ending, error
        if ending is None:
            return error
        if ending.outcome is _COMMITTED:
            if not isinstance(error, CommittedError) or (
                error.message is not None and error.transaction_id != ending.transaction_id
            ):
                raised = _committed(ending, error)
        elif ending.outcome is _UNKNOWN:
            raised = error if isinstance(error, CommitOutcomeUnknownError) else _unknown(ending)
        elif isinstance(error, CommittedError | CommitOutcomeUnknownError):
            raised = RolledBackError(ending.transaction_id, ending.message, error)
        if raised is not error:
            raised.__cause__ = error
        return raised

    def raise_with_outcome(self, error: BaseException) -> None:
        """Raise another error in place of `error`, if `error` would tell the sender a wrong outcome of the transaction.

        A cancellation stays a cancellation; its cause says that the transaction committed, or that the outcome is
        unknown.
        """
        ending = self.ending
        if ending is None:
            return
        ending.failure = None  # without this, a reference cycle keeps the error and its traceback in memory
        if isinstance(error, Exception):
            raised = self.with_outcome(error)
            self.ending = None
            if raised is not error:
                raise raised from error
        elif isinstance(error, CancelledError):
            _raise_with_outcome(error, ending)

    def step_out(self) -> None:
        """Make the parent the running frame, if the running frame is this frame or was entered inside this frame."""
        frame = _frame.get()
        while frame is not None and frame is not self:
            frame = frame.parent
        if frame is self:
            _frame.set(self.parent)


def _committed(ending: TransactionEnd, error: BaseException | None) -> CommittedError:
    """Return the `CommittedError` to raise in place of an error.

    If the error or a cause is a `CommittedError` of this transaction, return its copy with the response of `ending`.
    """
    for _ in range(_LONGEST_CHAIN):
        if error is None:
            break
        if isinstance(error, CommittedError) and error.transaction_id == ending.transaction_id:
            return replace(error, response=ending.response)
        error = error.__cause__ or error.__context__
    return CommittedError(ending.transaction_id, ending.response, message=ending.message)


def _raise_with_outcome(cancellation: CancelledError, ending: TransactionEnd | None) -> None:
    """Raise the cancellation again, with a cause that says that the transaction committed or may have committed.

    Do nothing if the transaction was rolled back, or if the cancellation already has a cause that says this.
    """
    cause = cancellation.__cause__
    if (
        ending is None
        or ending.outcome is _ROLLED_BACK
        or isinstance(cause, CommittedError | CommitOutcomeUnknownError)
    ):
        return
    outcome = _committed(ending, None) if ending.outcome is _COMMITTED else _unknown(ending)
    outcome.__cause__ = cause
    raise cancellation from outcome


def _unknown(ending: TransactionEnd) -> CommitOutcomeUnknownError:
    reason = getattr(ending.failure, "reason", None) or "the answer to COMMIT was lost or late"
    return CommitOutcomeUnknownError(ending.transaction_id, reason)


_LONGEST_CHAIN = 20
"""The largest number of errors that are examined in a chain of causes and contexts."""

_making = Lock()

_frame: ContextVar[Frame | None] = ContextVar("mediator_frame", default=None)


def _same_dispatch(one: Frame | None, other: Frame | None) -> bool:
    return one is other or (one is not None and other is not None and one.dispatch is other.dispatch)


def make_current(frame: Frame) -> None:
    """Make a frame the innermost running frame."""
    _frame.set(frame)


def outside_dispatches() -> Context:
    """Return a copy of the current context without the running dispatch, for tasks that outlive the dispatch."""
    context = copy_context()
    context.run(_frame.set, None)
    return context


def current_frame() -> Frame | None:
    """Return the innermost running dispatch; `None` if there is none."""
    return _frame.get()


def enter(
    mode: TransactionMode,
    message: object,
    origin: Origin,
    context: MessageContext | None = None,
    *,
    is_dispatch: bool = True,
) -> Frame:
    """Begin a dispatch: join the running scope or open a new scope, as `mode` says.

    With `is_dispatch=False` the frame is only a scope, for example of `mediator.scope()`. Its depth is not checked.

    Raises:
        SettingError: `mode` is no `TransactionMode`.
        DispatchDepthError: More dispatches are nested than the mediator allows.
        ScopeError: Another dispatch is using the scope that this dispatch would join.
        MisuseError: In the scope that this dispatch would join, a transaction is running in another event loop.
    """
    parent = _frame.get()
    frame = Frame()  # no `__init__`, because the call would take time in every dispatch
    frame.parent, frame.message, frame.origin = parent, message, origin
    frame.made_context = context
    frame.over = False
    frame.owner = True
    frame.made_scope = frame.ending = None
    if parent is None or parent.closed:
        frame.depth = 1
    else:
        frame.depth = parent.depth + 1
        if frame.depth > origin.max_depth and is_dispatch:
            frame.refuse(origin.max_depth)
        if mode is _DEFAULT or mode is _NESTED:
            _join(frame, parent.scope, parent)
    if mode is not _DEFAULT and check_mode(mode) is _SUPPRESS:
        frame.scope.transactional = False
    _frame.set(frame)
    return frame


def _join(frame: Frame, scope: Scope, parent: Frame) -> None:
    if scope.innermost is not parent and not _same_dispatch(scope.innermost, parent):
        raise misuse.concurrent_dispatch(frame.message, scope.running)
    if scope.transaction is not None and scope.loop is not None and scope.loop is not running_loop():
        raise misuse.wrong_owner("The scope", f"the event loop of {name_of(parent.message)}", "another event loop")
    frame.owner = False
    frame.made_scope = scope
    scope.innermost = frame


def running_scope() -> Scope | None:
    """Return the scope of the running dispatch; `None` when no dispatch is running or the dispatch is over."""
    frame = _frame.get()
    return None if frame is None or frame.closed else frame.made_scope or frame.scope


def current_scope(wanted: str = "the current scope") -> Scope:
    """Return the scope of the running dispatch.

    Args:
        wanted: What the caller wants from the scope, for the text of the error.

    Raises:
        ScopeError: No dispatch is running; or the caller is a task that outlived its dispatch.
    """
    scope = scope_if_any()
    if scope is None:
        raise misuse.no_scope(wanted)
    return scope


def scope_if_any() -> Scope | None:
    """Return the scope of the running dispatch; `None` when no dispatch is running.

    If the caller is a task that outlived its dispatch, a `ScopeError` is raised.
    """
    frame = _frame.get()
    if frame is None:
        return None
    scope = frame.made_scope or frame.scope  # reading the attribute is faster than the property
    if scope.closed:
        if frame.dispatch is None:
            return None
        raise misuse.scope_closed(frame.message)
    return scope


def current_context() -> MessageContext:
    """Return the context of the running message.

    Raises:
        ScopeError: No dispatch is running.
    """
    frame = _frame.get()
    if frame is None:
        raise misuse.no_scope("the message context")
    return frame.context
