"""JetStreamApi: sends requests to the JetStream API of one broker.

The API is described at https://docs.nats.io/reference/reference-protocols/nats_api_reference. nats-py's own classes for
the API are not used, because these classes overwrite existing consumers and omit settings unknown to nats-py.
"""

import json
from dataclasses import dataclass
from typing import Any

import nats.errors
from nats.aio.client import Client

from mediator.errors import PublisherUnavailableError, StreamNotFoundError
from mediator.nats.connection import AuthenticatedClient, ask

NANOSECONDS = 1_000_000_000
"""The number of nanoseconds in a second. All durations in the API are in nanoseconds."""

_TIMEOUT = 2.0
_NOT_FOUND = 404
_STREAM_NOT_FOUND = 10059


@dataclass(eq=False)
class ApiError(Exception):
    """The API refused a request.

    Attributes:
        code: The status code, with the same meaning as in HTTP.
        err_code: The error code of JetStream.
        description: The server's description of the error.
    """

    code: int
    err_code: int
    description: str

    def __str__(self) -> str:
        return f"{self.description} ({self.err_code})"


_FOREIGN: dict[str, Any] = {"error": {"description": "the answer is not in the format of JetStream"}}


def read_answer(data: bytes) -> dict[str, Any]:
    """Return the answer in `data`. If `data` is not in the format of JetStream, the returned answer is an error."""
    try:
        answer: dict[str, Any] = json.loads(data)
        error: dict[str, Any] = answer.get("error", {})
        if all(isinstance(error.get(name, 0), int) for name in ("code", "err_code")):
            return answer
    except (ValueError, RecursionError, AttributeError):
        pass
    return _FOREIGN


@dataclass(frozen=True, slots=True)
class JetStreamApi:
    """Sends requests to the JetStream API of one broker, through `client`."""

    client: Client
    broker: str

    async def call(self, subject: str, body: dict[str, Any] | None = None, *, stream: str = "") -> dict[str, Any]:
        """Send a request and return the answer; wait at most 2 s.

        Raises:
            ApiError: The request was refused.
            StreamNotFoundError: The request was refused because `stream` does not exist.
            PublisherUnavailableError: There was no answer.
        """
        payload = b"" if body is None else json.dumps(body).encode()
        try:
            message = await ask(self.client, f"$JS.API.{subject}", payload, _TIMEOUT)
        except (nats.errors.Error, OSError) as error:
            raise PublisherUnavailableError(self.broker, self._reason(f"$JS.API.{subject}", error)) from error
        answer = read_answer(message.data)
        if answer == _FOREIGN:
            raise PublisherUnavailableError(self.broker, _FOREIGN["error"]["description"])
        refused: dict[str, Any] | None = answer.get("error")
        if refused is None:
            return answer
        refusal = ApiError(refused.get("code", 0), refused.get("err_code", 0), refused.get("description", ""))
        if stream and refusal.err_code == _STREAM_NOT_FOUND:
            raise StreamNotFoundError(self.broker, str(refusal), stream) from refusal
        raise refusal

    def _reason(self, subject: str, error: Exception) -> str:
        if isinstance(self.client, AuthenticatedClient) and self.client.may_not_publish(subject):
            return f"this application's user may not publish to {subject}"
        return f"no answer from JetStream: {str(error) or type(error).__name__}"

    async def stream(self, name: str) -> dict[str, Any] | None:
        """Return the broker's information about a stream; `None` when the stream does not exist.

        Raises:
            PublisherUnavailableError: The broker did not answer, or refused to answer.
        """
        try:
            return await self.call(f"STREAM.INFO.{name}")
        except ApiError as error:
            if error.code == _NOT_FOUND:
                return None
            raise PublisherUnavailableError(self.broker, str(error)) from error

    async def consumer(self, stream: str, name: str) -> dict[str, Any] | None:
        """Return the broker's information about a consumer; `None` when the consumer does not exist.

        Raises:
            StreamNotFoundError: The consumer's stream does not exist.
            PublisherUnavailableError: The broker did not answer, or refused to answer.
        """
        try:
            return await self.call(f"CONSUMER.INFO.{stream}.{name}", stream=stream)
        except ApiError as error:
            if error.code == _NOT_FOUND:
                return None
            raise PublisherUnavailableError(self.broker, str(error)) from error

    async def put_consumer(self, stream: str, config: dict[str, Any], action: str) -> dict[str, Any]:
        """Create (`action="create"`) or change (`"update"`) a consumer; return the broker's information about the consumer.

        Raises:
            ApiError: The consumer exists with other settings, or the broker does not accept the settings.
            StreamNotFoundError: The consumer's stream does not exist.
            PublisherUnavailableError: The broker did not answer.
        """
        request = {"stream_name": stream, "config": config, "action": action}
        return await self.call(f"CONSUMER.CREATE.{stream}.{config['name']}", request, stream=stream)
