"""FastAPI integration: the application starts the container, and the commands of one request share a scope."""

from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager
from typing import Annotated, Any

from mediator.blocks import asynccontextmanager
from mediator.context import MessageContext, new_id
from mediator.dependency_injector import lifespan
from mediator.dependency_injector.mediator_provider import mediators_of
from mediator.errors import CommittedError, ContainerError
from mediator.extras import Extra
from mediator.logger import Logger
from mediator.mediator import Mediator
from mediator.printable import shown, traceback_of

with Extra("fastapi"):
    from fastapi import Depends
    from starlette.requests import HTTPConnection

CORRELATION_HEADER = "x-correlation-id"
LONGEST_ID = 128
"""The largest number of characters in a correlation id. Longer ids, and ids that are not visible ASCII, are ignored."""


def container_lifespan(
    container: Any, **options: Any
) -> Callable[[Any], AbstractAsyncContextManager[dict[str, Mediator]]]:
    """Return a lifespan that starts and stops a container: `FastAPI(lifespan=container_lifespan(container))`.

    For a container of another library, give FastAPI a lifespan that yields `{"mediator": mediator}`.

    Args:
        container: An instance of the container. Web requests use its first mediator.
        options: Options of `mediator.dependency_injector.lifespan`: `workers`, `requests`, `packages`...

    Raises:
        ContainerError: The container has no mediator.
    """

    @asynccontextmanager
    async def run(_app: Any) -> AsyncGenerator[dict[str, Mediator]]:
        found = mediators_of(container)
        if not found:
            raise ContainerError(container, "The container has no mediator: add a MediatorProvider to it.")
        async with lifespan(container, **options):
            yield {"mediator": found[0][1]()}

    return run


async def request_mediator(connection: HTTPConnection) -> AsyncIterator[Mediator]:
    """Yield the mediator inside a scope of this request; see `RequestMediator`.

    Raises:
        ContainerError: The application was not started with `container_lifespan`.
    """
    mediator = getattr(connection.state, "mediator", None)
    if not isinstance(mediator, Mediator):
        text = "The application has no mediator. Make it with `FastAPI(lifespan=container_lifespan(container))`."
        raise ContainerError(connection.app, text)
    message = shown(f"{connection.scope.get('method', 'WEBSOCKET')} {connection.scope['path']}")
    failed = False
    try:
        async with mediator.scope(message=message, context=context_of(connection.headers.get(CORRELATION_HEADER))):
            try:
                yield mediator
            except BaseException:
                failed = True
                raise
    except CommittedError as error:
        if failed:
            raise
        # The endpoint has returned its response, and its commands have committed: only closing the scope failed.
        kind, stack = type(error.__cause__ or error).__name__, traceback_of(error)
        Logger().error("request failed after the commit", request=message, error=kind, stack=stack)


def context_of(correlation_id: str | None) -> MessageContext:
    """Return the context of a request. The correlation id is the given id if that id is valid, otherwise a new id."""
    message_id = new_id()
    given = correlation_id or ""
    is_valid = 0 < len(given) <= LONGEST_ID and all("!" <= char <= "~" for char in given)
    return MessageContext(message_id, given if is_valid else message_id)


RequestMediator = Annotated[Mediator, Depends(request_mediator, scope="function")]
"""The type of an endpoint's parameter: `async def enroll(body: Body, mediator: RequestMediator)`.

The request has one scope. The messages of the request run one after the other, and each command has its own
transaction. To send several messages with `asyncio.gather`, use `mode=TransactionMode.NEW`. The scope is closed before
the response is sent. If your own dependency has a `yield` and takes a `RequestMediator`, declare the dependency with
`Depends(..., scope="function")`; FastAPI demands this. The header `X-Correlation-ID` becomes the correlation id.
"""
