"""Idempotency: the port to what this application's database knows of commands that must not happen twice."""

import asyncio
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, TypeVar

import structlog

from mediator.distributed.bounds import check_positive
from mediator.distributed.requests import RequestCodec
from mediator.distributed.unit_of_work import UnitOfWork
from mediator.errors import IdempotencyEncodingError
from mediator.handlers import type_arguments
from mediator.messages import Request

_CLEAN_BATCH = 1000
_SOON = 0.5
"""Seconds until the next batch is forgotten, when there is more."""


@dataclass(frozen=True, slots=True)
class KeptResponse:
    """What a command returned that committed.

    Attributes:
        fingerprint: Of the command's payload.
        response: As the codec wrote it.
    """

    fingerprint: str
    response: bytes


class Idempotency(ABC):
    """Remembers, in the transaction of the command itself, that a command happened and what it returned.

    It is a worker, too: while it runs, it forgets what is older than it keeps.

    Args:
        codec: Writes and reads responses, and writes commands to tell their payloads apart.
        keep_seconds: How long a response is kept, in seconds. A command that is repeated later happens again.
        clean_interval: How often old ones are forgotten, in seconds.
    """

    def __init__(self, codec: RequestCodec, *, keep_seconds: float, clean_interval: float) -> None:
        check_positive(keep_seconds=keep_seconds, clean_interval=clean_interval)
        self.codec: RequestCodec = codec
        self.keep_seconds: float = keep_seconds
        self._clean_interval = clean_interval
        self._responses: dict[type, Any] = {}
        self._log: structlog.stdlib.BoundLogger = structlog.get_logger("mediator").bind(worker="idempotency")

    @abstractmethod
    async def claim(self, unit_of_work: UnitOfWork, key: str, fingerprint: str, /) -> KeptResponse | None:
        """Take a key in the running transaction, and return `None`; or what is kept under it.

        While another transaction has the key and has not ended, waits for how that ends. A key that has no response, since
        whoever took it failed and its transaction committed all the same, is taken as a new one.
        """

    @abstractmethod
    async def keep(self, unit_of_work: UnitOfWork, key: str, response: bytes, /) -> None:
        """Keep the response under a key that was taken in the running transaction."""

    @abstractmethod
    async def clean(self, limit: int, /) -> int:
        """Forget at most `limit` responses older than they are kept, and return how many."""

    async def run(self) -> None:
        """Forget what is old, in bounded batches, until cancelled."""
        pause = self._clean_interval
        while True:
            await asyncio.sleep(pause)
            full = False
            try:
                full = await self.clean(_CLEAN_BATCH) >= _CLEAN_BATCH
            except Exception as error:  # settled: forgetting can wait
                self._log.warning("idempotency not cleaned", error=type(error).__name__, reason=str(error))
            pause = min(_SOON, self._clean_interval) if full else self._clean_interval

    def encode_command(self, command: Any, /) -> bytes:
        """The payload of a command.

        Raises:
            IdempotencyEncodingError: It cannot be encoded, or its response could not be decoded.
        """
        self._response_of(command)
        try:
            return self.codec.encode(command)
        except ValueError as error:
            raise IdempotencyEncodingError(command, "its payload", str(error)) from error

    def encode_response(self, command: Any, response: Any, /) -> bytes:
        """What a command returned, read back once: what is kept can be returned.

        Raises:
            IdempotencyEncodingError: It cannot be encoded, or not be decoded again.
        """
        annotation = self._response_of(command)
        try:
            encoded = self.codec.encode(response)
            decoded = self.codec.decode(encoded, annotation)
        except ValueError as error:
            raise IdempotencyEncodingError(command, "its response", str(error)) from error
        if not encoded:
            raise IdempotencyEncodingError(command, "its response", "the codec gave nothing")
        if annotation is Any and decoded != response:
            reason = "the class of the command does not say of what type it is; derive it from `Command[ItsType]`"
            raise IdempotencyEncodingError(command, "its response", reason)
        return encoded

    def decode_response(self, command: Any, encoded: bytes, /) -> Any:
        """What an equal command returned.

        Raises:
            IdempotencyEncodingError: It was written for another type, by another version of the application.
        """
        try:
            return self.codec.decode(encoded, self._response_of(command))
        except ValueError as error:
            raise IdempotencyEncodingError(command, "the response that was kept", str(error)) from error

    def _response_of(self, command: Any) -> Any:
        """The type of a command's response; `Any` when its class does not say it."""
        cls: type[Any] = command.__class__
        if cls not in self._responses:
            (annotation,) = type_arguments(cls, Request) or (Any,)
            annotation = Any if isinstance(annotation, TypeVar) else annotation
            if problem := self.codec.problem(annotation):
                raise IdempotencyEncodingError(command, "its response", problem)
            self._responses[cls] = annotation
        return self._responses[cls]


def is_expired(created_at: float, now: float, keep_seconds: float) -> bool:
    """Whether what was kept at a time is to be forgotten."""
    return created_at < now - keep_seconds
