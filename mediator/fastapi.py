"""Mediator of a web request: FastAPI starts the container, and the commands of a request share its scope."""

from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Annotated, Any

from mediator.context import MessageContext, new_id
from mediator.dependency_injector import lifespan
from mediator.dependency_injector.mediator_provider import mediators_of
from mediator.errors import ContainerError
from mediator.extras import Extra
from mediator.mediator import Mediator

with Extra("fastapi"):
    from fastapi import Depends
    from starlette.requests import HTTPConnection

CORRELATION_HEADER = "x-correlation-id"
LONGEST_ID = 128
"""In characters. A longer one is not taken over, nor one with spaces or anything but visible ASCII in it."""


def container_lifespan(
    container: Any, **options: Any
) -> Callable[[Any], AbstractAsyncContextManager[dict[str, Mediator]]]:
    """What starts and stops the container with the application: `FastAPI(lifespan=container_lifespan(container))`.

    With another container, give FastAPI a lifespan that yields `{"mediator": mediator}`.

    Args:
        container: The container, an instance. Its first mediator is the one that requests are given.
        options: Of `mediator.dependency_injector.lifespan`: `workers`, `requests`, `packages`...

    Raises:
        ContainerError: It has no mediator.
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
    """The mediator, inside a scope of this request; see `RequestMediator`.

    Raises:
        ContainerError: The application was not started with `container_lifespan`.
    """
    mediator = getattr(connection.state, "mediator", None)
    if not isinstance(mediator, Mediator):
        text = "The application has no mediator. Make it with `FastAPI(lifespan=container_lifespan(container))`."
        raise ContainerError(connection.app, text)
    message = f"{connection.scope.get('method', 'WEBSOCKET')} {connection.scope['path']}"
    async with mediator.scope(message=message, context=context_of(connection.headers.get(CORRELATION_HEADER))):
        yield mediator


def context_of(correlation_id: str | None) -> MessageContext:
    """The context of a request: the flow that its header names, or a new one if that is missing or no proper id."""
    message_id = new_id()
    proper = correlation_id is not None and 0 < len(correlation_id) <= LONGEST_ID and _is_visible(correlation_id)
    return MessageContext(message_id, correlation_id if proper and correlation_id else message_id)


def _is_visible(text: str) -> bool:
    return all("!" <= char <= "~" for char in text)


RequestMediator = Annotated[Mediator, Depends(request_mediator, scope="function")]
"""The type of an endpoint's parameter: `async def enroll(body: Body, mediator: RequestMediator)`.

The request has one scope. What it sends runs in turn, each command in a transaction of its own; `asyncio.gather` needs
`mode=TransactionMode.NEW`. The scope is closed before the response is sent. The header `X-Correlation-ID` is taken over.
"""
