"""All errors of the library. The text of an error says what happened, to which objects, and what to do.

Each error carries these objects as attributes, and has a section in `docs/errors.md`. Five base classes tell a caller
how to react: `MisuseError`, `CommittedError`, `RolledBackError`, `OutcomeUnknownError` and `TransientError`.

    MediatorError
        MisuseError                        the library is used in a way that cannot work: change the code
            ScopeError                     no scope is running, or two dispatches use one scope at the same time
            NoUnitOfWorkError              the unit of work that is needed is not running
            StaleObjectError               an object that an earlier transaction loaded was changed
            DeclarationError               a message class or an event class is declared wrongly
            DispatchDepthError             too many dispatches are nested, often because of a circle of messages
            HandlerNotFoundError           a request has no handler
            GroupOrderingError             a consumer group changed its ordering
            SchemaError                    the tables in the database do not fit the version of the library
            ContainerError                 a container is used wrongly
            ContainerValidationError       a container is wired wrongly; the text lists every fault
            SettingError                   a setting has a value that cannot work
        CommittedError                     the command was committed, and something after the commit failed
            NotStoredError                 something in the scope of the command was not stored
            EventsNotPublishedError        some events of the command were not published
            AfterCommitError               notifications that follow the commit failed
        RolledBackError                    the transaction was rolled back by a failure that a caller ignored
        OutcomeUnknownError                it is unknown whether the message took effect
            CommitOutcomeUnknownError      the answer to COMMIT was lost
            RemoteTimeoutError             another application did not answer in time; also a RemoteError
        TransientError                     a temporary failure: try again later
            DatabaseUnavailableError       the database cannot be opened
                DatabaseConnectionError    the connection to the database was lost
                DatabaseWriteError         the database refuses writes, for example because its disk is full
            WriterTimeoutError             other writers kept an SQLite file busy
            PoolExhaustedError             all connections of the pool are in use
            PublisherUnavailableError      the broker cannot be reached
                StreamNotFoundError        the stream does not exist
                ConsumerNotFoundError      the durable consumer does not exist
                StreamMismatchError        the stream has other settings than the application needs
                StreamUnavailableError     the stream stores no events at present
                DuplicateDroppedError      the broker dropped an event as a duplicate
            RemoteUnavailableError         another application did not accept a request; also a RemoteError
            OutboxFullError                too many events wait in the outbox; also an EventError
            ClaimLostError                 a relay or a consumer no longer has the claim on events
            RateLimitedError               too many messages were sent in a period
            ConcurrencyLimitedError        too many messages are being handled at the same time
            CircuitOpenError               a message is refused after too many failures
            MessageTimeoutError            a message or an event was not handled in time, and is rolled back
        ValidationFailedError              a message is not valid
        NotAuthorizedError                 the sender of a message is not authorized to send it
        IdempotencyConflictError           an idempotency key was used before, for a different command
        ContextError                       a message context was given a value that is not allowed
        EventError                         something is wrong with a distributed event
            EventNotSerializableError      an event cannot be encoded
            EventLimitError                an event is too large, or a command has too many events
            EventIdConflictError           a different event has the same id
            EventRefusedError              the broker refuses the event at every attempt
            EventHeldBackError             an earlier event with the same partition key was not stored
            EventNotDecodableError         a received event cannot be decoded
            FatalEventError                raised by a handler so that the event is parked at once
            RetryLater                     raised by a handler so that the event is tried again later
            ParkedEventBlockedError        an earlier event with the same key is parked
            ParkedEventConflictError       the id of a parked event, or its place in the outbox, is taken
        RemoteError                        a request to another application has no response
            RemoteRefusedError             the other application refused the request
            RemoteFailedError              the handler in the other application failed
            RemoteResponseError            the request was handled, and its response cannot be read
        NotFoundError                      a provider, group, event or failpoint does not exist
            ParkedEventNotFoundError       an event is not parked, or is no longer parked
        WorkerNotStoppedError              a worker still runs although it was cancelled
        MissingExtraError                  an optional package is not installed
        ForeignDistributionError           another distribution with the same import name is installed
        FrozenEventsError                  in tests: event classes differ from their stored schemas or samples
        UnexpectedMessageError             in tests: a message was sent that the test did not expect
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
    EventRefusedError,
    FatalEventError,
    OutboxFullError,
    ParkedEventBlockedError,
    ParkedEventConflictError,
    RetryLater,
)
from mediator.errors.installation import (
    ForeignDistributionError,
    MissingExtraError,
    WorkerNotStoppedError,
    refuse_foreign_distribution,
)
from mediator.errors.misuse_errors import (
    ContainerError,
    ContainerValidationError,
    DeclarationError,
    DispatchDepthError,
    GroupOrderingError,
    HandlerNotFoundError,
    MisuseError,
    NoUnitOfWorkError,
    SchemaError,
    ScopeError,
    SettingError,
    StaleObjectError,
)
from mediator.errors.not_found import NotFoundError, ParkedEventNotFoundError
from mediator.errors.outcomes import (
    AfterCommitError,
    CommitOutcomeUnknownError,
    CommittedError,
    EventsNotPublishedError,
    NotStoredError,
    OutcomeUnknownError,
    RolledBackError,
)
from mediator.errors.problem import Problem
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
from mediator.errors.root import MediatorError, NotPickled
from mediator.errors.testing import FrozenEventsError, ServerStartError, UnexpectedMessageError
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
    "RetryLater",
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

# Checked here and not in `mediator/__init__.py`, which another distribution may have replaced.
refuse_foreign_distribution()
