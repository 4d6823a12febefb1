"""Errors that say whether a transaction was committed or rolled back, or that this is unknown."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from mediator.errors.misuse_errors import NoUnitOfWorkError
from mediator.errors.root import MediatorError, name_of, repr_of


@dataclass(eq=False, repr=False)
class CommittedError(MediatorError, RuntimeError):
    """The command was committed, and something after the commit failed. Never repeat the command.

    Its `__cause__` is the error that was raised after the commit.

    Attributes:
        transaction_id: The id of the unit of work, or of the last unit of work if several were committed in the scope.
        response: The response that the command would have returned. A behavior outside the transaction may have
            replaced the handler's response before the failure.
        message: The message for which the unit of work was begun; `None` when it is unknown.
    """

    transaction_id: str
    response: Any
    message: object = field(default=None, kw_only=True)

    def __str__(self) -> str:
        return (
            f"Unit of work {self.transaction_id} committed, but something after it failed. Do not repeat the command."
        )


@dataclass(eq=False, repr=False)
class NotStoredError(CommittedError, NoUnitOfWorkError):
    """The command was committed, but something in its scope, such as an event, was not stored."""

    def __str__(self) -> str:
        return (
            f"Unit of work {self.transaction_id} committed, but something in its scope was not stored: {self.problem} "
            "Do not repeat the command."
        )


@dataclass(eq=False, repr=False)
class EventsNotPublishedError(CommittedError):
    """The command was committed, but some events did not reach the broker. Only direct delivery raises this error."""

    events: Sequence[Any] = ()
    errors: Sequence[BaseException] = field(default_factory=tuple[BaseException, ...])

    def __str__(self) -> str:
        first = f": {self.errors[0]}" if self.errors else ""
        return (
            f"Unit of work {self.transaction_id} committed, but {len(self.events)} of its events were not published"
            f'{first}. Do not repeat the command. With `delivery="direct"` these events are lost unless you send the '
            "`events` of this error yourself; outbox delivery cannot lose them."
        )


@dataclass(eq=False, repr=False)
class AfterCommitError(CommittedError):
    """The command was committed, and a notification or another step after the commit failed.

    Attributes:
        notifications: The notifications to publish again. Their own unit of work did not commit, or they were not
            published within `after_commit_timeout`. Some may have been added by the handlers of another notification.
        errors: All errors after the commit, including errors in publishing the events with direct delivery.
    """

    notifications: Sequence[Any] = ()
    errors: Sequence[BaseException] = field(default_factory=tuple[BaseException, ...])

    def __str__(self) -> str:
        names = ", ".join(name_of(each) for each in self.notifications) or "several steps"
        reasons = "; ".join(repr_of(error) for error in self.errors)
        advice = (
            "publish the `notifications` of this error again, if they matter"
            if self.notifications
            else "there is nothing to publish again"
        )
        return (
            f"Unit of work {self.transaction_id} committed, but after the commit {names} failed: {reasons}. Do not repeat "
            f"the command; {advice}."
        )


@dataclass(eq=False, repr=False)
class RolledBackError(MediatorError, RuntimeError):
    """A part of the transaction failed. The whole transaction was rolled back, although a caller ignored the failure.

    Attributes:
        transaction_id: The id of the unit of work.
        message: The message that failed in the transaction.
        cause: The error of `message`. A `CommittedError` or `CommitOutcomeUnknownError` here is about another unit of
            work, and says nothing about the outcome of this unit of work.
        answered: Whether a behavior outside the transaction returned a response in place of the error.
    """

    transaction_id: str
    message: object
    cause: BaseException
    answered: bool = False

    def __str__(self) -> str:
        if self.answered:
            remedy = (
                "A behavior outside the transaction returned a response nevertheless, and a response says that the command "
                "took effect. Raise the error, or answer it with a `RequestExceptionHandler` that returns `Handled(...)`."
            )
        elif isinstance(self.cause, CommittedError | CommitOutcomeUnknownError):
            remedy = "That error describes another unit of work; everything in this one was rolled back."
        else:
            remedy = (
                "An error undoes the whole transaction, even if it is caught. To try a message that may fail, send it with "
                "`mode=TransactionMode.NESTED`."
            )
        return (
            f"Unit of work {self.transaction_id} was rolled back, because {name_of(self.message)} failed in it: "
            f"{repr_of(self.cause)}. {remedy}"
        )


class OutcomeUnknownError(MediatorError):
    """It is unknown whether the message took effect. Send the message again only if handling it twice does no harm."""


@dataclass(eq=False, repr=False)
class CommitOutcomeUnknownError(OutcomeUnknownError, RuntimeError):
    """The answer to COMMIT was lost or late. The transaction may be committed, so the library never repeats it."""

    transaction_id: str
    reason: str

    def __str__(self) -> str:
        return (
            f"Whether unit of work {self.transaction_id} committed is unknown: {self.reason}. The library does not "
            "repeat the transaction, because it could then take effect twice. Check whether its changes are in the "
            "database before you repeat it."
        )
