"""Remote request: a request that another application handles, known on the wire by a name of its own."""

import re
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

from mediator.errors import RequestDeclarationError
from mediator.handlers import type_arguments
from mediator.messages import Request, is_request

_WORD = r"[a-z0-9]+(?:-[a-z0-9]+)*"
_NAME = re.compile(rf"{_WORD}\.{_WORD}")


class RequestCodec(Protocol):
    """Writes requests and responses as bytes. The class to read into comes from the code here, never from the wire."""

    def encode(self, value: object, /) -> bytes:
        """What stands for a request or a response.

        Raises:
            ValueError: It has a value that cannot be encoded; the text shows no value.
        """
        ...

    def decode(self, data: bytes, annotation: Any, /) -> Any:
        """What the bytes stand for, every field checked, unknown ones ignored.

        Raises:
            ValueError: They do not stand for that type; the text shows no value.
        """
        ...

    def problem(self, annotation: Any, /) -> str:
        """Why a type can never be decoded; empty when it can."""
        ...


@dataclass(frozen=True, slots=True)
class Exposure:
    """A request class as both applications see it.

    Attributes:
        name: `<context>.<name>`, the same in both applications; the class need not be.
        request_class: What is sent, or decoded into.
        response: The type of the response.
    """

    name: str
    request_class: type[Request[Any]]
    response: Any


def exposure_of(request_class: Any, codec: RequestCodec | None = None) -> Exposure:
    """How a request class travels.

    Args:
        request_class: It declares `request_type: ClassVar[str] = "<context>.<name>"`.
        codec: Asked whether it can decode the request and its response.

    Raises:
        RequestDeclarationError: It declares no valid name, or no response, or something that has no encoding.
    """
    name = getattr(request_class, "request_type", None)
    if not (isinstance(request_class, type) and is_request(request_class)):
        raise RequestDeclarationError(request_class, "is no Request")
    if not name:
        raise RequestDeclarationError(request_class, "has no request_type")
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise RequestDeclarationError(request_class, f"has the request_type {name!r}")
    arguments = type_arguments(request_class, Request)
    if not arguments or isinstance(arguments[0], TypeVar):
        raise RequestDeclarationError(request_class, "does not say what it is answered with")
    for annotation in (request_class, arguments[0]) if codec is not None else ():
        problem = codec.problem(annotation) if codec is not None else ""
        if problem:
            raise RequestDeclarationError(request_class, f"cannot travel: {problem}")
    return Exposure(name, request_class, arguments[0])
