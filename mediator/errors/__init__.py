"""Every error of the library: what happened, with the objects, and what to do.

Each error carries its objects as attributes, and has a section in `docs/errors.md`. Five bases answer the
questions of a caller: is it committed, is it rolled back, does nobody know, may it be tried again, is the library used
wrongly?

    MediatorError
        MisuseError                        the library is used in a way that cannot work: change the code
            ScopeError                     no scope is running, or two dispatches use it at a time
            NoUnitOfWorkError              no unit of work is running, or another one
            StaleObjectError               an object of an earlier transaction was changed
            DeclarationError               a class of messages or events is declared wrongly
            DispatchDepthError             messages cause each other in a circle
            NestedTransactionError         an inner transaction waits for an outer one
            HandlerNotFoundError           nothing handles a request
            GroupOrderingError             a consumer group has the other ordering
            SchemaError                    the tables do not fit the library
            ContainerError                 a container is used wrongly
            ContainerValidationError       the wiring has faults: the whole report
            SettingError                   a setting cannot work
        CommittedError                     it was committed, and something after it failed
            NotStoredError                 what was left at the end of its scope is not stored
            EventsNotPublishedError        some of its events were not published
            AfterCommitError               what was to follow the commit failed
        RolledBackError                    it was rolled back, although a caller went on
        OutcomeUnknownError                nobody knows whether it took effect
            CommitOutcomeUnknownError      the answer to COMMIT was lost
            RemoteTimeoutError             another application did not answer; a RemoteError, too
        TransientError                     try again later
            DatabaseUnavailableError       the database cannot be opened
                DatabaseConnectionError    its connection was lost
                DatabaseWriteError         it stores nothing, or is a standby
            WriterTimeoutError             other writers keep an SQLite file busy
            PoolExhaustedError             all connections are in use
            PublisherUnavailableError      the broker cannot be reached
                StreamNotFoundError        the stream does not exist
                ConsumerNotFoundError      the durable consumer does not exist
                StreamMismatchError        the stream has other settings
                StreamUnavailableError     the stream takes nothing at present
                DuplicateDroppedError      the broker dropped an event that is sent again
            RemoteUnavailableError         another application takes no request; a RemoteError, too
            OutboxFullError                too many events wait; an EventError, too
            ClaimLostError                 another relay has the events
            RateLimitedError               too many messages came before it
            ConcurrencyLimitedError        too many messages are being handled
            CircuitOpenError               what it needs has failed too often
            MessageTimeoutError            a message or event was not handled in time, and is rolled back
        ValidationFailedError              a message is not valid
        NotAuthorizedError                 its sender may not send it
        IdempotencyConflictError           its idempotency key belongs to another command
        ContextError                       a message context cannot have this value
        EventError                         something is wrong with a distributed event
            EventNotSerializableError      it cannot be encoded
            EventLimitError                it is too large, or a command has too many of them
            EventIdConflictError           another event has its id
            EventRefusedError              the broker refuses it every time
            EventHeldBackError             an earlier event of its key was not stored
            EventNotDecodableError         it cannot be read
                EventNotUpcastableError    it cannot be lifted to the version of its class
            FatalEventError                raised by handlers: park it at once
            ParkedEventBlockedError        an earlier event of its key is parked
            ParkedEventConflictError       its id or its place in the outbox is taken
        RemoteError                        a request to another application has no response
            RemoteRefusedError             it was not let through
            RemoteFailedError              its handler failed there
            RemoteResponseError            it was handled, and its response cannot be read
        NotFoundError                      a provider, group, event or failpoint does not exist
            ParkedEventNotFoundError       an event is not parked any more
        WorkerNotStoppedError              a worker goes on although it was cancelled
        MissingExtraError                  a package is not installed
        ForeignDistributionError           a stranger of the same import name is installed
        FrozenEventsError                  in tests: events differ from their frozen samples
        UnexpectedMessageError             in tests: a message that was not expected
        ServerStartError                   in tests: a nats-server did not start
"""

from mediator.errors import misuse, not_found
from mediator.errors.broker import (
    ConsumerNotFoundError,
    DuplicateDroppedError,
    PublisherUnavailableError,
    StreamMismatchError,
    StreamNotFoundError,
    StreamUnavailableError,
)
from mediator.errors.database import (
    DatabaseConnectionError,
    DatabaseUnavailableError,
    DatabaseWriteError,
    PoolExhaustedError,
    WriterTimeoutError,
)
from mediator.errors.events import (
    EventError,
    EventHeldBackError,
    EventIdConflictError,
    EventLimitError,
    EventNotDecodableError,
    EventNotSerializableError,
    EventNotUpcastableError,
    EventRefusedError,
    FatalEventError,
    OutboxFullError,
    ParkedEventBlockedError,
    ParkedEventConflictError,
)
from mediator.errors.installation import (
    ForeignDistributionError,
    MissingExtraError,
    WorkerNotStoppedError,
    refuse_foreign_distribution,
)
from mediator.errors.misuse.classes import (
    ContainerError,
    ContainerValidationError,
    DeclarationError,
    DispatchDepthError,
    GroupOrderingError,
    HandlerNotFoundError,
    MisuseError,
    NestedTransactionError,
    NoUnitOfWorkError,
    SchemaError,
    ScopeError,
    SettingError,
    StaleObjectError,
)
from mediator.errors.not_found import (
    NotFoundError,
    ParkedEventNotFoundError,
)
from mediator.errors.outcomes import (
    AfterCommitError,
    CommitOutcomeUnknownError,
    CommittedError,
    EventsNotPublishedError,
    NotStoredError,
    OutcomeUnknownError,
    RolledBackError,
)
from mediator.errors.problem import (
    Problem,
)
from mediator.errors.refusals import (
    ContextError,
    IdempotencyConflictError,
    NotAuthorizedError,
    ValidationFailedError,
    ValidationFailure,
)
from mediator.errors.remote import (
    RemoteError,
    RemoteFailedError,
    RemoteRefusedError,
    RemoteResponseError,
    RemoteTimeoutError,
    RemoteUnavailableError,
)
from mediator.errors.root import (
    MediatorError,
    NotPickled,
)
from mediator.errors.testing import (
    FrozenEventsError,
    ServerStartError,
    UnexpectedMessageError,
)
from mediator.errors.transient import (
    CircuitOpenError,
    ClaimLostError,
    ConcurrencyLimitedError,
    MessageTimeoutError,
    RateLimitedError,
    TransientError,
)

__all__ = [
    "AfterCommitError",
    "CircuitOpenError",
    "ClaimLostError",
    "CommitOutcomeUnknownError",
    "CommittedError",
    "ConcurrencyLimitedError",
    "ConsumerNotFoundError",
    "ContainerError",
    "ContainerValidationError",
    "ContextError",
    "DatabaseConnectionError",
    "DatabaseUnavailableError",
    "DatabaseWriteError",
    "DeclarationError",
    "DispatchDepthError",
    "DuplicateDroppedError",
    "EventError",
    "EventHeldBackError",
    "EventIdConflictError",
    "EventLimitError",
    "EventNotDecodableError",
    "EventNotSerializableError",
    "EventNotUpcastableError",
    "EventRefusedError",
    "EventsNotPublishedError",
    "FatalEventError",
    "ForeignDistributionError",
    "FrozenEventsError",
    "GroupOrderingError",
    "HandlerNotFoundError",
    "IdempotencyConflictError",
    "MediatorError",
    "MessageTimeoutError",
    "MissingExtraError",
    "MisuseError",
    "NestedTransactionError",
    "NoUnitOfWorkError",
    "NotAuthorizedError",
    "NotFoundError",
    "NotPickled",
    "NotStoredError",
    "OutboxFullError",
    "OutcomeUnknownError",
    "ParkedEventBlockedError",
    "ParkedEventConflictError",
    "ParkedEventNotFoundError",
    "PoolExhaustedError",
    "Problem",
    "PublisherUnavailableError",
    "RateLimitedError",
    "RemoteError",
    "RemoteFailedError",
    "RemoteRefusedError",
    "RemoteResponseError",
    "RemoteTimeoutError",
    "RemoteUnavailableError",
    "RolledBackError",
    "SchemaError",
    "ScopeError",
    "ServerStartError",
    "SettingError",
    "StaleObjectError",
    "StreamMismatchError",
    "StreamNotFoundError",
    "StreamUnavailableError",
    "TransientError",
    "UnexpectedMessageError",
    "ValidationFailedError",
    "ValidationFailure",
    "WorkerNotStoppedError",
    "WriterTimeoutError",
    "misuse",
    "not_found",
]

refuse_foreign_distribution()  # here: all modules import these errors, also where a stranger's `mediator/__init__.py` is
