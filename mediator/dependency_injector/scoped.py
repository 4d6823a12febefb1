"""Scoped: a provider of one instance per dispatch scope."""

import asyncio
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any, TypeVar

from dependency_injector import providers

from mediator.dependency_injector.provider_kinds import effective, is_in_place, overriding
from mediator.errors import ContainerError, misuse
from mediator.scope import Scope, scope_if_any

T = TypeVar("T")


class Scoped(providers.Factory[T]):
    """Provides one instance per scope. All dispatches that join a scope share the instance of this scope.

        unit_of_work = Scoped(SqlAlchemyUnitOfWork, engine)
        session = Scoped(AsyncSession, engine, dispose=AsyncSession.close)

    At the end of the scope, instances with a method `aclose()` are closed, the newest instance first. If `provides` is a
    coroutine function, it is called once per scope, and all users await the same task.

    An overriding provider is called once per scope: `unit_of_work.override(providers.Factory(Fake))` gives one `Fake` per
    scope. For instances of an overriding provider, `dispose` is not called. If the overriding provider keeps its
    object, as a `Singleton` does, the object is not closed.

    Args:
        provides: A class or a function, as for `providers.Factory`.
        *args: Positional arguments; providers among them are called.
        dispose: Called with the instance instead of `aclose()`; `dispose` may return an awaitable.
        **kwargs: Keyword arguments; providers among them are called.

    Calling the provider raises:
        ScopeError: No dispatch is running.
        ScopeError: A task that has outlived its dispatch calls the provider.
        ContainerError: The provider was called with arguments, although the instance is shared by all its users.
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
        if is_in_place(self, memo):
            self.set_args(*providers.deepcopy(self.args, memo))
            self.set_kwargs(**providers.deepcopy(self.kwargs, memo))
            return self
        base: Any = super()
        copied = base.__deepcopy__(memo)
        copied.dispose = self.dispose
        return copied

    def __call__(self, *args: Any, **kwargs: Any) -> T:  # type: ignore[override]  # the stub overloads it for `await`
        """Return the instance of the running scope. The docstring of the class lists the errors."""
        if args or kwargs:
            text = f"All users in a scope share the object of {self._name()}, so a call cannot have arguments."
            raise ContainerError(self, text)
        scope = scope_if_any()
        if scope is None:
            raise misuse.no_scope(self._name())
        instances = scope.instances
        if self in instances:
            kept: T = instances[self]
            return kept
        return self.make(scope, super().__call__)

    def make(self, scope: Scope, build: Callable[[], Any]) -> T:
        """Make an instance with `build` for a scope that has no instance yet. Store and return the instance."""
        made: Any = build()
        if hasattr(made, "__await__"):
            # A coroutine can be awaited only once, but a task can be awaited by all users of the instance.
            made = asyncio.ensure_future(made)
            scope.on_exit(partial(_close_awaited, made, self._closer()))
        else:
            closing = self._closer() if overriding(self) is not None else self.dispose or _aclose
            if closing is not None and (closing is not _aclose or _closable(made)):
                scope.on_exit(partial(_close, made, closing))
        scope.keep(self, made)
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
    """Close the instance that a task has made, or cancel the task if it still runs."""
    if not making.done():
        making.cancel()
        await asyncio.wait({making})
    if making.cancelled() or making.exception() is not None or closing is None:
        return
    pending = _close(making.result(), closing, error)
    if pending is not None:
        await pending
