"""Watching: checks that a behavior has awaited every `call_next()` before the behavior returns.

Watching takes time, so a behavior is not watched if its bytecode shows that the behavior awaits each `call_next()`.
When a watched behavior returns, the coroutines of its `call_next()` must have ended. A coroutine that has not begun
would never run. A running coroutine would continue in a closed scope.
"""

import asyncio
import dis
import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from types import CodeType, CoroutineType
from typing import Any

from mediator.errors import misuse

_STOP_SECONDS = 1.0
"""Seconds to wait for the end of a task that a behavior has left running, after the task was cancelled."""


def watched(behavior: Any) -> Any:
    """Wrap a behavior and track the coroutines that its `call_next()` creates."""
    return _Watched(behavior)


@dataclass(slots=True)
class _Watched:
    behavior: Any

    def handle(self, message: Any, call_next: Callable[..., Any], /) -> Any:
        """Call the behavior and check that it awaited the rest of the pipeline.

        Raises:
            MisuseError: The behavior called `call_next()` without awaiting it, so the rest of the pipeline has not run.
                Or the behavior returned while a task ran the rest of the pipeline. The task is cancelled.
        """
        watching: Any = _watch(self.behavior, message, call_next)
        watching.__qualname__ = getattr(_method_of(self.behavior), "__qualname__", watching.__qualname__)
        return watching


async def _watch(behavior: Any, message: Any, call_next: Callable[..., Any]) -> Any:
    begun: list[Any] = []

    def tracked(*replacement: Any) -> Any:
        inner = call_next(*replacement)
        begun.append(inner)
        return inner

    try:
        response = await behavior.handle(message, tracked)
    except BaseException:
        await _stop(_unfinished(begun))
        raise
    unfinished = _unfinished(begun)
    if unfinished:
        never_ran = all(inspect.getcoroutinestate(each) == inspect.CORO_CREATED for each in unfinished)
        if await _stop(unfinished) or not never_ran:
            raise misuse.returned_early(message, _method_of(behavior).__qualname__)
        raise misuse.not_awaited(message, unfinished[0].__qualname__)
    return response


def _unfinished(begun: Sequence[Any]) -> list[Any]:
    return [each for each in begun if isinstance(each, CoroutineType) and each.cr_frame is not None]


async def _stop(coroutines: Sequence[Any]) -> bool:
    """Cancel the tasks that run these coroutines, and wait for the tasks. Close the coroutines that have not begun.

    Return whether any task was cancelled.
    """
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
    """Raise a `MisuseError` if a response is a coroutine that a behavior or handler forgot to await.

    The coroutine is closed first, so that Python does not warn about it.
    """
    if response.__class__ is CoroutineType:
        response.close()
        raise misuse.not_awaited(message, response.__qualname__)


def awaits_inner(behavior: Any) -> bool:
    """Return whether the bytecode of a behavior shows that the behavior awaits each `call_next()`."""
    return _shows_await(getattr(_method_of(behavior), "__func__", None))


def _method_of(behavior: Any) -> Any:
    """Return the `handle` that the application has written, even if the library has wrapped the behavior."""
    return getattr(behavior, "wrapped_handle", None) or behavior.handle


@lru_cache(maxsize=1024)
def _shows_await(function: Any) -> bool:
    code: Any = getattr(inspect.unwrap(function), "__code__", None) if function is not None else None
    if not isinstance(code, CodeType) or code.co_argcount < 1 or not code.co_flags & inspect.CO_COROUTINE:
        return False
    name = code.co_varnames[code.co_argcount - 1]
    if name in code.co_cellvars:  # a nested function may call `call_next` at any time
        return False
    instructions = list(dis.get_instructions(code))
    loads = [index for index, each in enumerate(instructions) if _loads(each, name)]
    return all(_is_awaited(instructions[index + 1 :]) for index in loads)


def _loads(instruction: dis.Instruction, name: str) -> bool:
    """Return whether an instruction loads the variable `name`. Some instructions load two variables."""
    loaded: Any = instruction.argval
    return "LOAD" in instruction.opname and (loaded == name or (isinstance(loaded, tuple) and name in loaded))


def _is_awaited(following: Sequence[dis.Instruction]) -> bool:
    """Return True for the instructions after `call_next` in `await call_next()`, False in `later = call_next()`."""
    for each in following:
        if each.opname == "GET_AWAITABLE":
            return True
        if each.opname.startswith(("POP_TOP", "STORE_", "RETURN_", "YIELD_")) or "JUMP" in each.opname:
            return False
    return False
