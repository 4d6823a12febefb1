"""IdempotencyBehavior: a command that is repeated with the same key happens once, and is answered as often as it is sent."""

import hashlib
import json
from collections.abc import Callable, Mapping
from typing import Any, ClassVar, TypeVar, overload

import structlog

from mediator.ambient import running_fields
from mediator.context import MessageContext
from mediator.distributed.idempotency import Idempotency
from mediator.distributed.reading import lack_of_unit_of_work
from mediator.distributed.unit_of_work import UnitOfWork
from mediator.errors import IdempotencyConflictError, NoScopeError
from mediator.messages import Command, Notification, Request, StreamRequest
from mediator.pipeline import CallNext, PipelineBehavior
from mediator.scope import Frame, current_frame
from mediator.watching import check_awaited

_MESSAGES = (Request, StreamRequest, Notification)

Message = TypeVar("Message", bound=Command[Any])


def own_key(command: Any) -> object:
    """The `idempotency_key` of a command: a field, or a property; `None` when it has none."""
    return getattr(command, "idempotency_key", None)


class IdempotencyBehavior(PipelineBehavior[Message, Any]):
    """Answers a command that was sent before with the same key as it was answered then, and does not handle it again.

    The response is stored in the transaction of the command itself, hence this stands inside the unit of work. A command
    that fails stores nothing, and may be sent again. Of two at the same time the second waits for the first. Keys of
    different principals, tenants and message classes are different keys. A command without a key is handled as ever.

    The key of the header is for the command that the application was entered with: what that sends has inherited the
    header, and has only keys of its own.

    Args:
        idempotency: Where responses are kept, in the database of the unit of work.
        key: Gives the key of a command, or `None`; its attribute `idempotency_key` unless given.
        header: The header of the message context that has the key of a command without one of its own; `None` for none.
    """

    one_of: ClassVar[str | None] = "idempotency"
    belongs_inside: ClassVar[Mapping[str, str]] = {
        "unit of work": "what it stores is part of the transaction of the command"
    }
    needs: ClassVar[Mapping[str, str]] = belongs_inside

    @overload  # for the class as it is: type checkers need not be told what it applies to
    def __init__(
        self: "IdempotencyBehavior[Command[Any]]",
        idempotency: Idempotency,
        *,
        key: Callable[[Any], object] = ...,
        header: str | None = ...,
    ) -> None: ...

    @overload
    def __init__(  # pyright: ignore[reportOverlappingOverload]  # classes that narrow the message use it
        self, idempotency: Idempotency, *, key: Callable[[Any], object] = ..., header: str | None = ...
    ) -> None: ...

    def __init__(
        self,
        idempotency: Idempotency,
        *,
        key: Callable[[Any], object] = own_key,
        header: str | None = "idempotency-key",
    ) -> None:
        self._idempotency = idempotency
        self._key = key
        self._header = header
        self._log: structlog.stdlib.BoundLogger = structlog.get_logger("mediator")

    async def handle(self, command: Message, call_next: CallNext[Any], /) -> Any:
        """Return what is kept, or go on and keep the response.

        Raises:
            IdempotencyConflictError: The key was used for another payload.
            IdempotencyEncodingError: The payload or the response cannot be encoded.
            NoUnitOfWorkError: It has a key, and no unit of work runs.
        """
        frame = current_frame()
        if frame is None:
            raise NoScopeError("an idempotency key")
        unit_of_work = frame.scope.transaction
        key = self._key_of(command, frame)
        if key is None:
            return await call_next()
        if not isinstance(unit_of_work, UnitOfWork):
            raise lack_of_unit_of_work(command)
        idempotency, name = self._idempotency, hashed_key(command, key, frame.context)
        fingerprint = hashlib.sha256(idempotency.encode_command(command)).hexdigest()
        kept = await idempotency.claim(unit_of_work, name, fingerprint)
        if kept is None:
            response = await call_next()
            check_awaited(response, command)
            await idempotency.keep(unit_of_work, name, idempotency.encode_response(command, response))
            return response
        if kept.fingerprint != fingerprint:
            raise IdempotencyConflictError(command)
        self._log.info("command repeated", message=type(command).__name__, **running_fields())
        return idempotency.decode_response(command, kept.response)

    def _key_of(self, command: Message, frame: Frame) -> str | None:
        own = self._key(command)
        if own is not None and own != "":
            return str(own)
        if self._header is None or not _is_entry(frame):
            return None
        return frame.context.headers.get(self._header) or None


def _is_entry(frame: Frame) -> bool:
    """Whether no other message led to this one. An attempt of a retry has the context of the message itself."""
    dispatch = frame.anchor or frame
    outer = dispatch.parent
    while outer is not None:
        if isinstance(outer.message, _MESSAGES) and outer.context is not dispatch.context:
            return False
        outer = outer.parent
    return True


def hashed_key(command: object, key: str, context: MessageContext) -> str:
    """What a response is kept under: SHA-256 over principal, tenant, message class and key, in hexadecimal digits."""
    cls = type(command)
    parts = [context.principal, context.tenant, f"{cls.__module__}.{cls.__qualname__}", key]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()
