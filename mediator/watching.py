"""Watching: makes sure that a behavior has awaited what it went on with.

Most behaviors say `await call_next()`, and their compiled code shows it; these are not watched, and cost nothing. What the
others went on with must have ended when they return: otherwise it never ran, or runs on in a scope that is closed.
"""

import asyncio
import dis
import inspect
from collections.abc import Callable, Sequence
from functools import lru_cache
from types import CodeType, CoroutineType
from typing import Any

from mediator.errors import CallNextError, NotAwaitedError

_STOP_SECONDS = 1.0
"""How long a task that a behavior has left behind may take to end."""


def watched(behavior: Any) -> Any:
    """A behavior in place of another one, of which it notes what that goes on with."""
    return _Watched(behavior)


class _Watched:
    __slots__ = ("_behavior",)

    def __init__(self, behavior: Any) -> None:
        self._behavior = behavior

    def handle(self, message: Any, call_next: Callable[..., Any], /) -> Any:
        """As that of the behavior.

        Raises:
            NotAwaitedError: It went on and nobody awaited it, so what is inside has not run.
            CallNextError: It returned while what is inside was running, in a task; that is cancelled.
        """
        watching: Any = _watch(self._behavior, message, call_next)
        watching.__qualname__ = getattr(_method_of(self._behavior), "__qualname__", watching.__qualname__)
        return watching


async def _watch(behavior: Any, message: Any, call_next: Callable[..., Any]) -> Any:
    begun: list[Any] = []

    def go_on(*replacement: Any) -> Any:
        inner = call_next(*replacement)
        begun.append(inner)
        return inner

    try:
        response = await behavior.handle(message, go_on)
    except BaseException:
        await _stop(_unfinished(begun))
        raise
    unfinished = _unfinished(begun)
    if unfinished:
        never_ran = all(inspect.getcoroutinestate(each) == inspect.CORO_CREATED for each in unfinished)
        if await _stop(unfinished) or not never_ran:
            raise CallNextError(message, _method_of(behavior).__qualname__, running=True)
        raise NotAwaitedError(message, unfinished[0].__qualname__)
    return response


def _unfinished(begun: Sequence[Any]) -> list[Any]:
    return [each for each in begun if isinstance(each, CoroutineType) and each.cr_frame is not None]


async def _stop(coroutines: Sequence[Any]) -> bool:
    """Cancel the tasks that run some coroutines, wait for them, and close the rest; whether there were tasks."""
    tasks = [task for task in asyncio.all_tasks() if task.get_coro() in coroutines] if coroutines else []
    for task in tasks:
        task.cancel()
    if tasks:
        await asyncio.wait(tasks, timeout=_STOP_SECONDS)
    for each in coroutines:
        if inspect.getcoroutinestate(each) == inspect.CORO_CREATED:
            each.close()
    return bool(tasks)


def check_awaited(response: Any, message: object) -> None:
    """Make sure that a response is not a coroutine that a behavior forgot to await.

    Raises:
        NotAwaitedError: It is; nobody will run it any more.
    """
    if response.__class__ is CoroutineType:
        response.close()
        raise NotAwaitedError(message, response.__qualname__)


def awaits_inner(behavior: Any) -> bool:
    """Whether the code of a behavior shows that it awaits what it goes on with, each time."""
    return _shows_await(getattr(_method_of(behavior), "__func__", None))


def _method_of(behavior: Any) -> Any:
    """The method that an application has written; what stands for a behavior has another `handle` of its own."""
    return getattr(behavior, "wrapped_handle", None) or behavior.handle


@lru_cache(maxsize=1024)
def _shows_await(function: Any) -> bool:
    code: Any = getattr(inspect.unwrap(function), "__code__", None) if function is not None else None
    if not isinstance(code, CodeType) or code.co_argcount < 1 or not code.co_flags & inspect.CO_COROUTINE:
        return False
    name = code.co_varnames[code.co_argcount - 1]
    if name in code.co_cellvars:  # a function inside may call it, nobody knows when
        return False
    instructions = list(dis.get_instructions(code))
    loads = [index for index, each in enumerate(instructions) if _loads(each, name)]
    return all(_is_awaited(instructions[index + 1 :]) for index in loads)


def _loads(instruction: dis.Instruction, name: str) -> bool:
    """Whether an instruction loads a variable; since Python 3.13 some load two at once."""
    loaded: Any = instruction.argval
    return "LOAD" in instruction.opname and (loaded == name or (isinstance(loaded, tuple) and name in loaded))


def _is_awaited(following: Sequence[dis.Instruction]) -> bool:
    """Whether the next thing that is done with a value, apart from calls, is to await it."""
    for each in following:
        if each.opname == "GET_AWAITABLE":
            return True
        if each.opname.startswith(("POP_TOP", "STORE_", "RETURN_", "YIELD_")) or "JUMP" in each.opname:
            return False
    return False
