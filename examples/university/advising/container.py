"""Container of the advising application."""

import os

from dependency_injector import containers, providers

from examples.university.advising.handlers import AdviseStudent, AssignAdvisorHandler, RecordStatus
from examples.university.advising.tables import open_database
from mediator import EventConsumer, LoggingBehavior
from mediator.dependency_injector import MediatorProvider, Scoped
from mediator.nats import NatsEventSubscription, StreamSettings, open_connection
from mediator.sqlalchemy import SqlAlchemyInbox, SqlAlchemyParking, SqlAlchemyUnitOfWork


class AdvisingContainer(containers.DeclarativeContainer):
    config = providers.Configuration(strict=True)
    engine = providers.Resource(open_database, config.database_url)
    nats = providers.Resource(open_connection, config.nats_url)

    unit_of_work = Scoped(SqlAlchemyUnitOfWork, engine)
    logging = providers.Factory(LoggingBehavior)
    mediator = MediatorProvider(behaviors=providers.List(logging))

    inbox = providers.Singleton(SqlAlchemyInbox, engine)
    subscription = providers.Singleton(
        NatsEventSubscription,
        nats,
        group="advising",
        prefix=config.prefix,
        settings=StreamSettings(max_bytes=64 * 1024**2),
        ack_wait=2.0,  # how soon the broker delivers again what a killed process had in its hands
    )
    parking = providers.Singleton(SqlAlchemyParking, engine)  # where events go that cannot be handled
    consumer = providers.Singleton(EventConsumer, subscription, inbox, unit_of_work.provider, mediator, parking=parking)

    assign_advisor = providers.Factory(AssignAdvisorHandler, unit_of_work)
    record_status = providers.Factory(RecordStatus, unit_of_work)
    advise_student = providers.Factory(AdviseStudent, mediator)


def create() -> AdvisingContainer:
    """The container with the settings of this process, which stand in its environment."""
    container = AdvisingContainer()
    container.config.from_dict(
        {
            "database_url": os.environ["DATABASE_URL"],
            "nats_url": os.environ["NATS_URL"],
            "prefix": os.environ["EVENTS_PREFIX"],
        }
    )
    return container
