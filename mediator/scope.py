"""Scope: what lives as long as one dispatch and those that join it.

One context variable holds the chain of running frames. A frame is one dispatch; the frames that joined each other share
a scope. A frame is left by setting the variable to its parent, never by resetting a token: a token cannot be reset in
another context than it was made in, which is where generators and fixtures are closed.
"""

from collections.abc import Generator
from contextlib import contextmanager
from contextvars import ContextVar
from threading import Lock
from typing import Any, NoReturn

from mediator.closing import ExitCallback, call_all, raise_failures
from mediator.context import MessageContext
from mediator.errors import ConcurrentDispatchError, DispatchDepthError, NoScopeError, ScopeClosedError
from mediator.sender import Origin
from mediator.transactions import Outcome, Transaction, TransactionMode, check_mode

# Looking up the members of an enumeration each time costs more than comparing them.
_DEFAULT, _NESTED, _SUPPRESS = TransactionMode.DEFAULT, TransactionMode.NESTED, TransactionMode.SUPPRESS
_NONE = Outcome.NONE


class Scope:
    """The objects of one dispatch: made once, shared by what joins it, disposed of at its end.

    Attributes:
        transaction: The transaction that runs now; one scope may see several in turn.
        transactional: False when nothing in this scope may begin a transaction.
        outcome: What became of the last transaction.
        response: What the command of a committed transaction returned.
        settled_id: The id of the last transaction that committed, or of which that is unknown.
        closed: Whether the dispatch is over.
        tip: The innermost of the running dispatches.
        exits: What is called at the end, if anything.
        kept: The instances, if there are any.
    """

    __slots__ = ("closed", "exits", "kept", "outcome", "response", "settled_id", "tip", "transaction", "transactional")

    def __init__(self) -> None:
        self.transaction: Transaction | None = None
        self.transactional: bool = True
        self.outcome: Outcome = _NONE
        self.response: Any = None
        self.settled_id: str | None = None
        self.closed: bool = False
        self.tip: Frame | None = None
        self.exits: list[ExitCallback] | None = None
        self.kept: dict[Any, Any] | None = None

    @property
    def instances(self) -> dict[Any, Any]:
        """Objects by the key of whoever keeps them here."""
        if self.kept is None:
            self.kept = {}
        return self.kept

    @property
    def running(self) -> object:
        """The message of the innermost dispatch, for texts."""
        return self.tip.message if self.tip else "a dispatch"

    def on_exit(self, callback: ExitCallback) -> None:
        """Call `callback(error or None)` at the end of the scope, last added first. It may be a coroutine function."""
        if self.exits is None:
            self.exits = []
        self.exits.append(callback)

    async def close(self, error: BaseException | None) -> None:
        """Run every exit callback, also when one fails or is cancelled, then raise what failed.

        Raises:
            BaseException: The one failure, or a group of them; a cancellation wins. When the scope ends with `error`,
                failures are added to it as notes instead.
        """
        self.closed = True
        failures = await call_all(self.exits, error) if self.exits else ()
        self.kept = None
        raise_failures("scope", failures, error)


class Frame:
    """One running dispatch: its message, its scope, the mediator it came through, and the dispatch it came from."""

    __slots__ = ("depth", "made_context", "made_scope", "message", "origin", "over", "owner", "parent")

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
        """The scope, made when first asked for: many dispatches need none. `made_scope` is quicker, and may be `None`."""
        if self.made_scope is None:
            with _making:  # a thread that works for the dispatch may ask at the same time
                if self.made_scope is None:
                    scope = Scope()
                    scope.tip = None if self.over else self
                    self.made_scope = scope
                    scope.closed = self.over  # read last: the dispatch may end meanwhile
        return self.made_scope

    @property
    def closed(self) -> bool:
        """Whether the dispatch whose scope it is in is over."""
        return self.over if self.made_scope is None else self.made_scope.closed

    @property
    def context(self) -> MessageContext:
        """The message's context, made when first asked for: most dispatches never need it."""
        if self.made_context is None:
            message_id, parent = self.origin.ids(), self.parent
            self.made_context = parent.context.caused(message_id) if parent else MessageContext(message_id, message_id)
        return self.made_context

    def suspend(self) -> None:
        """Let the dispatch before this one go on, until the next `resumed`: a stream runs only while it is stepped."""
        _frame.set(self.parent)
        if not self.owner:
            self.scope.tip = self.parent

    @contextmanager
    def resumed(self) -> Generator[None, None, None]:
        """Make this the running dispatch for the body; an error when its scope is closed, or in use by another one."""
        scope, before, tip = self.scope, _frame.get(), self.scope.tip
        if scope.closed:
            raise ScopeClosedError(self.message)
        if not self.owner and not _stand_for_one(tip, before):
            raise ConcurrentDispatchError(self.message, scope.running)
        scope.tip = self
        _frame.set(self)
        try:
            yield
        finally:
            scope.tip = self if self.owner else tip
            _frame.set(before)

    @property
    def anchor(self) -> "Frame | None":
        """The dispatch that it stands for: itself, unless it only carries a context."""
        return self

    def refuse(self, max_depth: int) -> NoReturn:
        """Refuse a dispatch that is nested too deeply, with a `DispatchDepthError` that names all that run."""
        path: list[object] = []
        frame: Frame | None = self
        while frame is not None and len(path) < self.depth:
            path += [frame.message] if frame.anchor is frame else []
            frame = frame.parent
        raise DispatchDepthError(max_depth, path[::-1])

    def check_last(self) -> None:
        """Make sure that no dispatch which joined this one is still running.

        Raises:
            ConcurrentDispatchError: One is: a task that was not awaited.
        """
        if not _stand_for_one(self.scope.tip, self):
            raise ConcurrentDispatchError(self.message, self.scope.running)

    def leave_quietly(self) -> bool:
        """End a dispatch that went well and leaves nothing to do; False when there is something: then `leave` it."""
        scope = self.made_scope
        if scope is None:  # nobody has joined it, and nothing is kept
            self.over = True
            if self.made_scope is None:
                _frame.set(self.parent)
                return True
            scope = self.made_scope  # a thread was quicker
        if scope.tip is not self or (self.owner and scope.exits):
            return False
        if self.owner:
            scope.closed = True
            scope.tip = None  # or it and this frame would wait for the garbage collector
            scope.kept = None
        else:
            scope.tip = self.parent
        _frame.set(self.parent)
        return True

    async def leave(self, error: BaseException | None = None) -> None:
        """End the dispatch: restore the frame before it, doom what it failed in, close the scope it opened.

        Raises:
            ConcurrentDispatchError: A dispatch that joined this one is still running.
        """
        scope, last = self.scope, _stand_for_one(self.scope.tip, self)
        try:
            if self.owner:
                if not last and error is None:
                    failure = ConcurrentDispatchError(self.message, scope.running)
                    await scope.close(failure)
                    raise failure
                await scope.close(error)
                if last:
                    scope.tip = None
            elif last:
                scope.tip = self.parent
        finally:
            self.step_out()

    def step_out(self) -> None:
        """Restore the frame before this one, unless this is the context of another dispatch, which goes on."""
        frame = _frame.get()
        while frame is not None and frame is not self:
            frame = frame.parent
        if frame is self:
            _frame.set(self.parent)


_making = Lock()

_frame: ContextVar[Frame | None] = ContextVar("mediator_frame", default=None)


def _stand_for_one(one: Frame | None, other: Frame | None) -> bool:
    return one is other or (one is not None and other is not None and one.anchor is other.anchor)


def make_current(frame: Frame) -> None:
    """Put a frame on top of the running ones."""
    _frame.set(frame)


def current_frame() -> Frame | None:
    """The innermost running dispatch, if any."""
    return _frame.get()


def enter(mode: TransactionMode, message: object, origin: Origin, context: MessageContext | None = None) -> Frame:
    """Begin a dispatch: join the running scope or open one, as `mode` says.

    Raises:
        SettingError: `mode` is no `TransactionMode`.
        ConcurrentDispatchError: The scope to join is in use by another dispatch at this moment.
    """
    parent = _frame.get()
    frame = Frame()  # without an `__init__`, for it is made for every dispatch
    frame.parent, frame.message, frame.origin = parent, message, origin
    frame.made_context = context
    frame.over = False
    frame.owner = True
    frame.made_scope = None
    if parent is None or parent.closed:
        frame.depth = 1
    else:
        frame.depth = parent.depth + 1
        if mode is _DEFAULT or mode is _NESTED:
            _join(frame, parent.scope, parent)
    if mode is not _DEFAULT and check_mode(mode) is _SUPPRESS:
        frame.scope.transactional = False
    _frame.set(frame)
    return frame


def _join(frame: Frame, scope: Scope, parent: Frame) -> None:
    if scope.tip is not parent and not _stand_for_one(scope.tip, parent):
        raise ConcurrentDispatchError(frame.message, scope.running)
    frame.owner = False
    frame.made_scope = scope
    scope.tip = frame


def current_scope(wanted: str = "the current scope") -> Scope:
    """The scope of the running dispatch.

    Raises:
        NoScopeError: Nothing is being dispatched.
        ScopeClosedError: The dispatch is over; this is a task that outlived it.
    """
    frame = _frame.get()
    if frame is None:
        raise NoScopeError(wanted)
    scope = frame.made_scope or frame.scope  # of the two, it is the property that takes time
    if scope.closed:
        if frame.anchor is None:
            raise NoScopeError(wanted)
        raise ScopeClosedError(frame.message)
    return scope


def current_context() -> MessageContext:
    """The context of the running message.

    Raises:
        NoScopeError: Nothing is being dispatched.
    """
    frame = _frame.get()
    if frame is None:
        raise NoScopeError("the message context")
    return frame.context
