"""Units of work, outbox and inbox on SQLAlchemy 2 (`mediator-uow[sqlalchemy]`)."""

from mediator.extras import Extra

with Extra("sqlalchemy"):
    from mediator.sqlalchemy.engine import open_engine
    from mediator.sqlalchemy.idempotency import SqlAlchemyIdempotency
    from mediator.sqlalchemy.inbox import SqlAlchemyInbox
    from mediator.sqlalchemy.migrations import create_schema, schema_rows, schema_sql, schema_statements, upgrade_schema
    from mediator.sqlalchemy.outbox import SqlAlchemyOutbox
    from mediator.sqlalchemy.parking import SqlAlchemyParking
    from mediator.sqlalchemy.schema import metadata
    from mediator.sqlalchemy.schema_check import schema_differences
    from mediator.sqlalchemy.unit_of_work import SqlAlchemyUnitOfWork

__all__ = [
    "SqlAlchemyIdempotency",
    "SqlAlchemyInbox",
    "SqlAlchemyOutbox",
    "SqlAlchemyParking",
    "SqlAlchemyUnitOfWork",
    "create_schema",
    "metadata",
    "open_engine",
    "schema_differences",
    "schema_rows",
    "schema_sql",
    "schema_statements",
    "upgrade_schema",
]
