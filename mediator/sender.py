"""Sender, Publisher and Origin: the parts of the mediator, for what needs only one of them."""

from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager
from typing import Protocol, TypeVar

from mediator.context import IdFactory, MessageContext
from mediator.messages import Notification, Request, StreamRequest
from mediator.strategies import PublishStrategy
from mediator.transactions import TransactionMode

R = TypeVar("R")
T = TypeVar("T")


class Sender(Protocol):
    """The half of the mediator that sends requests."""

    async def send(
        self,
        request: Request[R],
        /,
        *,
        mode: TransactionMode = TransactionMode.DEFAULT,
        context: MessageContext | None = None,
    ) -> R:
        """See `Mediator.send`."""
        ...

    def stream(
        self,
        request: StreamRequest[T],
        /,
        *,
        mode: TransactionMode = TransactionMode.DEFAULT,
        context: MessageContext | None = None,
    ) -> AbstractAsyncContextManager[AsyncIterator[T]]:
        """See `Mediator.stream`."""
        ...


class Publisher(Protocol):
    """The half of the mediator that publishes notifications."""

    async def publish(
        self,
        notification: Notification,
        /,
        *,
        mode: TransactionMode = TransactionMode.DEFAULT,
        strategy: PublishStrategy | None = None,
        context: MessageContext | None = None,
    ) -> None:
        """See `Mediator.publish`."""
        ...


class Origin(Publisher, Protocol):
    """What a dispatch knows of the mediator through which it came."""

    @property
    def ids(self) -> IdFactory:
        """Makes the ids of messages."""
        ...

    @property
    def max_depth(self) -> int:
        """How many dispatches may be nested in each other."""
        ...
