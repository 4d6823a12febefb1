"""Scoped: a provider of one instance per dispatch scope."""

import asyncio
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any, TypeVar

from dependency_injector import providers

from mediator.dependency_injector.provider_kinds import effective, overriding
from mediator.errors import ContainerError, NoScopeError
from mediator.scope import Scope, current_scope

T = TypeVar("T")


class Scoped(providers.Factory[T]):
    """One instance per scope: what a dispatch, and every dispatch that joins it, shares.

        unit_of_work = Scoped(SqlAlchemyUnitOfWork, engine)
        session = Scoped(AsyncSession, engine, dispose=AsyncSession.close)

    At the end of the scope the instances that have a method `aclose()` are closed, the last one made first. An override
    keeps the scoping: `unit_of_work.override(providers.Factory(Fake))` gives one `Fake` per scope. What an override
    keeps for longer (an object, a `Singleton`) is not closed, and `dispose` is not applied to an override. A coroutine
    function is called once per scope too, and its task is shared.

    Args:
        provides: A class or a function, as for `providers.Factory`.
        *args: Positional arguments; providers among them are called.
        dispose: Called with the instance in place of `aclose()`; it may return an awaitable.
        **kwargs: Keyword arguments; providers among them are called.

    Calling it raises:
        NoScopeError: Nothing is being dispatched.
        ScopeClosedError: The dispatch is over; this is a task that outlived it.
        ContainerError: It was called with arguments, which only one of its users could have chosen.
    """

    def __init__(
        self,
        provides: Callable[..., T] | str | None = None,
        *args: Any,
        dispose: Callable[[T], Any] | None = None,
        **kwargs: Any,
    ) -> None:
        self.dispose = dispose
        super().__init__(provides, *args, **kwargs)

    def __deepcopy__(self, memo: Any) -> Any:
        known = memo.get(id(self))
        if known is not None:
            return known
        base: Any = super()
        copied = base.__deepcopy__(memo)
        copied.dispose = self.dispose
        return copied

    def __call__(self, *args: Any, **kwargs: Any) -> T:  # type: ignore[override]  # the stub overloads it for `await`
        """The instance of the running scope, made when it is first asked for; see the class for what it raises."""
        if args or kwargs:
            raise ContainerError(self, f"{self._name()} is shared in its scope: it cannot be called with arguments.")
        try:
            scope = current_scope()
        except NoScopeError:
            raise NoScopeError(self._name()) from None
        instances = scope.instances
        if self in instances:
            kept: T = instances[self]
            return kept
        return self.make(scope, super().__call__)

    def make(self, scope: Scope, build: Callable[[], Any]) -> T:
        """Keep what `build` makes, which is what this provider gives as a `Factory`, in a scope that has none yet."""
        made: Any = build()
        if hasattr(made, "__await__"):
            # A coroutine can be awaited once, and the users of a scoped object are many.
            made = asyncio.ensure_future(made)
            scope.on_exit(partial(_close_awaited, made, self._closer()))
        else:
            closing = self._closer() if overriding(self) is not None else self.dispose or _aclose
            if closing is not None and (closing is not _aclose or _closable(made)):
                scope.on_exit(partial(_close, made, closing))
        if scope.kept is None:
            scope.kept = {self: made}
        else:
            scope.kept[self] = made
        instance: T = made
        return instance

    def _closer(self) -> Callable[[Any], Any] | None:
        if overriding(self) is None:
            return self.dispose or _aclose
        return _aclose if type(effective(self)) in _MAKES_ANEW else None

    def _name(self) -> str:
        name = getattr(self.provides, "__qualname__", None) or "nothing"
        return f"Scoped({name})"


_MAKES_ANEW = (providers.Factory, providers.Callable, providers.Coroutine)


def _closable(instance: Any) -> bool:
    return callable(getattr(instance.__class__, "aclose", None))


def _aclose(instance: Any) -> Awaitable[None] | None:
    closing: Awaitable[None] | None = instance.aclose() if _closable(instance) else None
    return closing


def _close(instance: Any, closing: Callable[[Any], Any], _: BaseException | None) -> Awaitable[None] | None:
    pending = closing(instance)
    return pending if hasattr(pending, "__await__") else None


async def _close_awaited(
    making: asyncio.Future[Any], closing: Callable[[Any], Any] | None, error: BaseException | None
) -> None:
    """Close what a coroutine made; one that nobody waits for any more is stopped."""
    if not making.done():
        making.cancel()
        await asyncio.wait({making})
    if making.cancelled() or making.exception() is not None or closing is None:
        return
    pending = _close(making.result(), closing, error)
    if pending is not None:
        await pending
