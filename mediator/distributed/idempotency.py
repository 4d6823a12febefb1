"""Idempotency: the port to the stored responses of commands, and the behavior that answers repeated commands."""

import hashlib
import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, TypeVar, overload

from mediator.ambient import running_fields
from mediator.context import MessageContext
from mediator.distributed.canonical import canonical
from mediator.distributed.cleaning import keep_clean
from mediator.distributed.requests import RequestCodec, encoded_response
from mediator.distributed.unit_of_work import UnitOfWork, lack_of_unit_of_work
from mediator.errors import IdempotencyConflictError, NotAuthorizedError, misuse
from mediator.handlers import type_arguments
from mediator.logger import Logger
from mediator.messages import Command, Notification, Request, StreamRequest
from mediator.pipeline import CallNext, PipelineBehavior
from mediator.scope import Frame, current_frame
from mediator.settings import check_positive
from mediator.watching import check_awaited


@dataclass(frozen=True, slots=True)
class KeptResponse:
    """The stored response of a command that committed.

    Attributes:
        fingerprint: A hash of the command's payload.
        response: The encoded response.
    """

    fingerprint: str
    response: bytes


class Idempotency(ABC):
    """Stores the response of each command that has an idempotency key, in the transaction of that command.

    An `Idempotency` is also a worker, which deletes responses that are older than `keep_seconds`.

    Args:
        codec: Encodes and decodes responses. The codec also encodes commands, so that their payloads can be compared.
        keep_seconds: How long a response is kept, in seconds. A command that is repeated later is handled again.
        clean_interval: How often old responses are deleted, in seconds.
    """

    def __init__(self, codec: RequestCodec, *, keep_seconds: float, clean_interval: float) -> None:
        check_positive(keep_seconds=keep_seconds, clean_interval=clean_interval)
        self.codec: RequestCodec = codec
        self.keep_seconds: float = keep_seconds
        self._clean_interval = clean_interval
        self._responses: dict[type, Any] = {}
        self._names: dict[str, type] = {}
        self._log: Logger = Logger(worker="idempotency")

    @abstractmethod
    async def claim(self, unit_of_work: UnitOfWork, key: str, fingerprint: str, /) -> KeptResponse | None:
        """Return the response stored under a key. If no response is stored, claim the key and return `None`.

        The claim belongs to the running transaction. If another running transaction has claimed the key, wait until
        that transaction ends. If a committed transaction claimed the key but stored no response, the key counts as new.
        """

    @abstractmethod
    async def find(self, unit_of_work: UnitOfWork, key: str, /) -> KeptResponse | None:
        """Return the response that the running transaction sees under a key, without claiming the key."""

    @abstractmethod
    async def keep(self, unit_of_work: UnitOfWork, key: str, response: bytes, /) -> None:
        """Store the response under a key that was claimed in the running transaction."""

    @abstractmethod
    async def clean(self, limit: int, /) -> int:
        """Delete at most `limit` responses that are older than `keep_seconds`, and return their number."""

    async def run(self) -> None:
        """Delete old responses, in bounded batches, until cancelled."""
        await keep_clean(self.clean, self._clean_interval, self._log, "idempotency not cleaned", batch=1000, soon=0.5)

    def name_of(self, command: object, /) -> str:
        """Return the name of a command's class. The name is part of each stored key, so every class has its own keys.

        The name is the `request_type` that the class declares, or else the name of the class without the module.

        Raises:
            DeclarationError: Another command class has the same name.
        """
        cls = type(command)
        name = request_name(cls)
        other = self._names.setdefault(name, cls)
        if other is not cls and path_of(other) != path_of(cls):
            problem = f"has the name {name!r} among commands with idempotency keys, and so has {path_of(other)}"
            raise misuse.request_declaration(cls, problem)
        return name

    def encode_command(self, command: Any, /) -> bytes:
        """Return the payload of a command.

        Raises:
            MisuseError: The command cannot be encoded, or the type of its response cannot be decoded.
        """
        self._response_of(command)
        try:
            return self.codec.encode(command)
        except ValueError as error:
            raise misuse.not_repeatable(command, "its payload", str(error)) from error

    def encode_response(self, command: Any, response: Any, /) -> bytes:
        """Return the encoded response of a command, after checking that it decodes to the same response.

        Raises:
            MisuseError: The response cannot be encoded, or does not decode to the same response.
        """
        annotation = self._response_of(command)
        try:
            encoded = encoded_response(self.codec, response, annotation)
        except ValueError as error:
            reason = str(error)
            if annotation is Any:
                reason += "; the class of the command declares no response type: derive it from `Command[ResponseType]`"
            raise misuse.not_repeatable(command, "its response", reason) from error
        if not encoded:
            raise misuse.not_repeatable(command, "its response", "the codec returned no bytes")
        return encoded

    def decode_response(self, command: Any, encoded: bytes, /) -> Any:
        """Return the stored response of an equal command, decoded.

        Raises:
            MisuseError: Another version of the application stored the response, with another type.
        """
        try:
            return self.codec.decode(encoded, self._response_of(command))
        except ValueError as error:
            raise misuse.not_repeatable(command, "the stored response", str(error)) from error

    def _response_of(self, command: Any) -> Any:
        """Return the type of a command's response; `Any` when the command's class declares none."""
        cls: type[Any] = command.__class__
        if cls not in self._responses:
            (annotation,) = type_arguments(cls, Request) or (Any,)
            annotation = Any if isinstance(annotation, TypeVar) else annotation
            if problem := self.codec.problem(annotation):
                raise misuse.not_repeatable(command, "its response", problem)
            self._responses[cls] = annotation
        return self._responses[cls]


def request_name(cls: type) -> str:
    """Return the name that identifies a command's class: its `request_type`, or the name of the class."""
    declared: object = getattr(cls, "request_type", None)
    return declared if isinstance(declared, str) and declared else cls.__name__


def path_of(cls: type) -> str:
    """Return the module and the qualified name of a class."""
    return f"{cls.__module__}.{cls.__qualname__}"


def is_expired(created_at: float, now: float, keep_seconds: float) -> bool:
    """Return whether a response that was stored at `created_at` is older than `keep_seconds`."""
    return created_at < now - keep_seconds


_MESSAGES = (Request, StreamRequest, Notification)
_UNVERIFIED = (
    "its sender is not verified, so its idempotency key could be the key of another sender; let `authenticate` return "
    "a Caller"
)

Message = TypeVar("Message", bound=Command[Any])


def own_key(command: Any) -> object:
    """Return the `idempotency_key` of a command; `None` when the command has no such field or property."""
    return getattr(command, "idempotency_key", None)


class IdempotencyBehavior(PipelineBehavior[Message, Any]):
    """Returns the stored response of a repeated command, instead of handling the command again.

    A command counts as repeated when an earlier command had the same idempotency key, class, principal and tenant. A
    command without a key is handled as usual. The response is stored in the transaction of the command, so place this
    behavior inside the unit of work. A command that fails stores nothing, and may be sent again. When two commands with
    the same key run concurrently, the second command waits for the first. A command with a key is refused when its
    caller is not verified, because the key could be the key of another caller.

    A command class is identified by its declared `request_type`, or else by its name. A repeated command is also
    recognized after its class was moved to another module, got a new order of fields, or got new fields with defaults.

    A key in the header is only for the command that entered the application. Messages that are sent while that command
    is handled inherit the header, but the behavior does not read their header.

    Args:
        idempotency: Stores the responses, in the database of the unit of work.
        key: Returns the key of a command, or `None`. By default the key is the attribute `idempotency_key`.
        header: The name of the header from which the key is read if `key` returns `None`. With `header=None` no header
            is read.
    """

    one_of: ClassVar[str | None] = "idempotency"
    belongs_inside: ClassVar[Mapping[str, str]] = {
        "unit of work": "it stores the response in the transaction of the command"
    }
    needs: ClassVar[Mapping[str, str]] = belongs_inside

    @overload  # for the class itself, without a type argument
    def __init__(
        self: "IdempotencyBehavior[Command[Any]]",
        idempotency: Idempotency,
        *,
        key: Callable[[Any], object] = ...,
        header: str | None = ...,
    ) -> None: ...

    @overload
    def __init__(  # pyright: ignore[reportOverlappingOverload]  # for subclasses that narrow the message
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
        self._log: Logger = Logger()

    async def handle(self, command: Message, call_next: CallNext[Any], /) -> Any:
        """Return the stored response. If none is stored, handle the command, and store and return its response.

        Raises:
            IdempotencyConflictError: The key was used before, with another payload.
            MisuseError: The payload or the response cannot be encoded, or the key is empty.
            DeclarationError: Another command class has the same name.
            NoUnitOfWorkError: The command has a key, and no unit of work runs.
            NotAuthorizedError: The command has a key, and its caller is not verified.
        """
        frame = current_frame()
        if frame is None:
            raise misuse.no_scope("an idempotency key")
        unit_of_work = frame.scope.transaction
        key = self._key_of(command, frame)
        if key is None:
            return await call_next()
        if frame.context.vouched_by is None:
            raise NotAuthorizedError(command, None, _UNVERIFIED)
        if not isinstance(unit_of_work, UnitOfWork):
            raise lack_of_unit_of_work(command)
        idempotency, encoded = self._idempotency, self._idempotency.encode_command(command)
        name = hashed_key(idempotency.name_of(command), key, frame.context)
        fingerprint = hashlib.sha256(canonical(encoded, command)).hexdigest()
        known = {fingerprint}
        kept = await idempotency.claim(unit_of_work, name, fingerprint)
        if kept is None:
            kept = await idempotency.find(unit_of_work, former_key(command, key, frame.context))
            known.add(hashlib.sha256(encoded).hexdigest())
            if kept is not None and kept.fingerprint in known:
                await idempotency.keep(unit_of_work, name, kept.response)
        if kept is None:
            response = await call_next()
            check_awaited(response, command)
            await idempotency.keep(unit_of_work, name, idempotency.encode_response(command, response))
            return response
        if kept.fingerprint not in known:
            raise IdempotencyConflictError(command)
        self._log.info("command repeated", message_type=type(command).__name__, **running_fields())
        return idempotency.decode_response(command, kept.response)

    def _key_of(self, command: Message, frame: Frame) -> str | None:
        own = self._key(command)
        if own is None and self._header is not None and _is_entry(frame):
            own = frame.context.headers.get(self._header)
        key = None if own is None else str(own)
        if key == "":
            raise misuse.empty_key(command)
        return key


def _is_entry(frame: Frame) -> bool:
    """Return whether the message was dispatched from outside, and not while another message was handled.

    A retry adds a frame for the same message. The frame has the context of the message, so it is not taken for another one.
    """
    dispatch = frame.dispatch or frame
    outer = dispatch.parent
    while outer is not None:
        if isinstance(outer.message, _MESSAGES) and outer.context is not dispatch.context:
            return False
        outer = outer.parent
    return True


def hashed_key(name: str, key: str, context: MessageContext) -> str:
    """Return the key of a stored response: the SHA-256 hash of principal, tenant, class name and key, as hex digits."""
    parts = ["2", context.principal, context.tenant, name, key]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


def former_key(command: object, key: str, context: MessageContext) -> str:
    """Return the key as it was before version 2 of the tables: hashed with the path of the class, not its name."""
    parts = [context.principal, context.tenant, path_of(type(command)), key]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()
