"""Remote requests: how a request that another application handles is named and encoded."""

import re
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

from mediator.errors import misuse
from mediator.fidelity import change_of
from mediator.handlers import type_arguments
from mediator.messages import Request, is_request

_WORD = r"[a-z0-9]+(?:-[a-z0-9]+)*"
_NAME = re.compile(rf"{_WORD}\.{_WORD}")


class RequestCodec(Protocol):
    """Encodes and decodes requests and responses. The class to decode into is chosen by the code, never by the data."""

    def encode(self, value: object, /) -> bytes:
        """Return a request or a response as bytes.

        Raises:
            ValueError: The object has a value that cannot be encoded; the error's text shows no value.
        """
        ...

    def decode(self, data: bytes, annotation: Any, /) -> Any:
        """Return the request or response that the bytes encode. Every field is checked; unknown fields are ignored.

        Raises:
            ValueError: The bytes do not encode an object of the given type; the error's text shows no value.
        """
        ...

    def problem(self, annotation: Any, /) -> str:
        """Return why the given type can never be decoded; an empty text when it can be decoded."""
        ...


@dataclass(frozen=True, slots=True)
class RequestContract:
    """A request class as both applications see it.

    Attributes:
        name: `<domain>.<name>`, the same in both applications; the classes may differ.
        request_class: The class of the request in this application.
        response: The type of the response.
    """

    name: str
    request_class: type[Request[Any]]
    response: Any


def encoded_request(codec: RequestCodec, request: object) -> bytes:
    """Return an encoded request, after checking that it decodes to the same request.

    A request that this application cannot decode is returned without the check. The other application may be able to
    decode the request.

    Raises:
        ValueError: The request cannot be encoded, or would decode to another request; the error's text shows no value.
    """
    data = codec.encode(request)
    try:
        read = codec.decode(data, type(request))
    except ValueError:
        return data
    _check_same(request, read)
    return data


def encoded_response(codec: RequestCodec, response: object, annotation: Any) -> bytes:
    """Return an encoded response, after checking that it decodes to the same response.

    Raises:
        ValueError: The response cannot be encoded or decoded, or would decode to another response; the error's text
            shows no value.
    """
    data = codec.encode(response)
    _check_same(response, codec.decode(data, annotation))
    return data


def _check_same(given: object, read: object) -> None:
    try:
        change = change_of(given, read)
    except RecursionError as error:
        raise ValueError("the value is nested too deeply to be compared") from error
    if change is not None:
        raise ValueError(f"it would be read as another value: {change}")


def contract_of(request_class: Any, codec: RequestCodec | None = None) -> RequestContract:
    """Return the contract of a request class.

    Args:
        request_class: A class that declares `request_type: ClassVar[str] = "<domain>.<name>"`.
        codec: Must be able to decode the request and its response; `None` for no check.

    Raises:
        DeclarationError: The class is not a request, has no valid name, or declares no response type. Also raised when
            the codec cannot decode the request or its response.
    """
    name = getattr(request_class, "request_type", None)
    if not (isinstance(request_class, type) and is_request(request_class)):
        raise misuse.request_declaration(request_class, "is not a Request")
    if not name:
        raise misuse.request_declaration(request_class, "has no request_type")
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise misuse.request_declaration(request_class, f"has the request_type {name!r}")
    arguments = type_arguments(request_class, Request)
    if not arguments or isinstance(arguments[0], TypeVar):
        raise misuse.request_declaration(request_class, "does not declare the type of its response")
    for annotation in (request_class, arguments[0]):
        if codec is not None and (problem := codec.problem(annotation)):
            raise misuse.request_declaration(request_class, f"cannot be sent: {problem}")
    return RequestContract(name, request_class, arguments[0])
