"""Errors that tell the outcome of a transaction: committed, rolled back, or not known."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from mediator.errors.misuse.classes import NoUnitOfWorkError
from mediator.errors.root import MediatorError, name_of, repr_of


@dataclass(eq=False, repr=False)
class CommittedError(MediatorError, RuntimeError):
    """The command committed; something after the commit failed. Never repeat the command.

    The error that was raised after the commit is its `__cause__`.

    Attributes:
        transaction_id: The unit of work; the last one, where a scope was closed in which several had committed.
        response: What the command would have returned: the response of its handler, or what a behavior outside the
            transaction had put in its place before something failed.
        message: The message whose unit of work it was; `None` when that is not known.
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
    """The command committed, and at the end of its scope something was left that no transaction has stored."""

    def __str__(self) -> str:
        return (
            f"Unit of work {self.transaction_id} committed, but at the end of its scope something was left: "
            f"{self.problem} Do not repeat the command."
        )


@dataclass(eq=False, repr=False)
class EventsNotPublishedError(CommittedError):
    """The command committed, and some of its events did not reach the broker (direct delivery only)."""

    events: Sequence[Any] = ()
    errors: Sequence[BaseException] = field(default_factory=tuple[BaseException, ...])

    def __str__(self) -> str:
        first = f": {self.errors[0]}" if self.errors else ""
        return (
            f"Unit of work {self.transaction_id} committed, but {len(self.events)} of its events were not published"
            f'{first}. Do not repeat the command. With `delivery="direct"` such events are lost unless you send the '
            "`events` of this error yourself; outbox delivery cannot lose them."
        )


@dataclass(eq=False, repr=False)
class AfterCommitError(CommittedError):
    """The command committed; some of the notifications that were to follow it failed.

    Attributes:
        notifications: Those that did not commit, or that there was no time for; also those that were to follow a
            notification which did, at any depth.
        errors: What failed; with direct delivery, its error too.
    """

    notifications: Sequence[Any] = ()
    errors: Sequence[BaseException] = field(default_factory=tuple[BaseException, ...])

    def __str__(self) -> str:
        names = ", ".join(name_of(each) for each in self.notifications) or "what was to follow"
        reasons = "; ".join(repr_of(error) for error in self.errors)
        advice = (
            "publish the `notifications` of this error again, if they matter"
            if self.notifications
            else "there is nothing to publish again"
        )
        return (
            f"Unit of work {self.transaction_id} committed, but after the commit this failed: {names}: {reasons}. Do not "
            f"repeat the command; {advice}."
        )


@dataclass(eq=False, repr=False)
class RolledBackError(MediatorError, RuntimeError):
    """Something in the transaction failed and the whole was rolled back, although a caller went on or was told otherwise.

    Attributes:
        transaction_id: The unit of work.
        message: What failed in it.
        cause: What that raised. An error of another unit of work, which committed or of which that is unknown, is told
            through this one, since nothing of the unit of work named here is left.
        answered: A behavior outside the transaction returned a response in place of the error.
    """

    transaction_id: str
    message: object
    cause: BaseException
    answered: bool = False

    def __str__(self) -> str:
        if self.answered:
            remedy = (
                "A behavior outside the transaction returned a response all the same, and a response says that the command "
                "took effect. Let the error pass, or answer it with a `RequestExceptionHandler` that returns `Handled(...)`."
            )
        elif isinstance(self.cause, CommittedError | CommitOutcomeUnknownError):
            remedy = "What that error says is about the other unit of work; nothing of this one is left."
        else:
            remedy = (
                "Swallowing an error does not undo half of a transaction. To try something that may fail, send it with "
                "`mode=TransactionMode.NESTED`."
            )
        return (
            f"Unit of work {self.transaction_id} was rolled back, because {name_of(self.message)} failed in it: "
            f"{repr_of(self.cause)}. {remedy}"
        )


class OutcomeUnknownError(MediatorError):
    """Nobody knows whether the message took effect. Send it again only if that does no harm."""


@dataclass(eq=False, repr=False)
class CommitOutcomeUnknownError(OutcomeUnknownError, RuntimeError):
    """The answer to COMMIT was lost or late: the transaction may have happened, and is not run again."""

    transaction_id: str
    reason: str

    def __str__(self) -> str:
        return (
            f"Whether unit of work {self.transaction_id} committed is unknown: {self.reason}. It is not repeated, "
            "because that could double its effect. Look for what it should have written, or repeat it with a command "
            "that can be repeated safely."
        )
