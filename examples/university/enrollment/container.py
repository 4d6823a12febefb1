"""Container of the enrollment application."""

import os

from dependency_injector import containers, providers

from examples.university.enrollment.handlers import (
    AnnounceEnrollment,
    EnrollStudentHandler,
    FindStudentHandler,
    StudentRepository,
    WriteLetter,
)
from examples.university.enrollment.tables import open_database
from mediator import DistributedEventBroker, DistributedUnitOfWorkBehavior, LoggingBehavior, OutboxRelay
from mediator.dependency_injector import MediatorProvider, Scoped
from mediator.nats import NatsEventPublisher, StreamSettings, open_connection
from mediator.sqlalchemy import SqlAlchemyOutbox, SqlAlchemyUnitOfWork


class EnrollmentContainer(containers.DeclarativeContainer):
    config = providers.Configuration(strict=True)
    engine = providers.Resource(open_database, config.database_url)
    nats = providers.Resource(open_connection, config.nats_url)

    unit_of_work = Scoped(SqlAlchemyUnitOfWork, engine, max_event_bytes=100_000)
    distributed_events = Scoped(DistributedEventBroker, unit_of_work)
    outbox = providers.Singleton(SqlAlchemyOutbox, engine, application="enrollment")
    publisher = providers.Singleton(
        NatsEventPublisher, nats, prefix=config.prefix, settings=StreamSettings(max_bytes=64 * 1024**2)
    )
    relay = providers.Singleton(OutboxRelay, outbox, publisher)

    logging = providers.Factory(LoggingBehavior)
    transaction = providers.Factory(DistributedUnitOfWorkBehavior, unit_of_work, distributed_events, outbox)
    mediator = MediatorProvider(behaviors=providers.List(logging, transaction))  # outermost first

    students = providers.Factory(StudentRepository, unit_of_work)
    enroll_student = providers.Factory(EnrollStudentHandler, students, distributed_events, mediator)
    find_student = providers.Factory(FindStudentHandler, students)
    write_letter = providers.Factory(WriteLetter, unit_of_work)
    announce_enrollment = providers.Factory(AnnounceEnrollment, distributed_events)


def create() -> EnrollmentContainer:
    """The container with the settings of this process, which stand in its environment."""
    container = EnrollmentContainer()
    container.config.from_dict(
        {
            "database_url": os.environ["DATABASE_URL"],
            "nats_url": os.environ["NATS_URL"],
            "prefix": os.environ["EVENTS_PREFIX"],
        }
    )
    return container
