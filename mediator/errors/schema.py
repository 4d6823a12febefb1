"""Errors about the tables of this library: missing, without their rows, older or newer than the library."""

from dataclasses import dataclass

from mediator.errors.root import MediatorError


@dataclass(eq=False, repr=False)
class SchemaMissingError(MediatorError, RuntimeError):
    """The tables of this library are not in the database."""

    database: str
    table: str

    def __str__(self) -> str:
        return (
            f"The database {self.database} has no table {self.table}. Create the tables with "
            "`mediator schema create module:container`, or with `await create_schema(engine)`."
        )


@dataclass(eq=False, repr=False)
class SchemaIncompleteError(MediatorError, RuntimeError):
    """The tables of this library lack rows that they begin with."""

    database: str
    table: str
    rows: int
    needed: int

    def __str__(self) -> str:
        return (
            f"The table {self.table} in the database {self.database} has {self.rows} of the {self.needed} rows that relays "
            "need, so nothing is published, and the events wait. Add the missing rows with `mediator schema create "
            "module:container`, with `await create_schema(engine)`, or in a migration of your own with `schema_rows`."
        )


@dataclass(eq=False, repr=False)
class SchemaOutdatedError(MediatorError, RuntimeError):
    """The tables of this library in the database are older than the library."""

    database: str
    version: int
    needed: int

    def __str__(self) -> str:
        return (
            f"The tables in the database {self.database} are of version {self.version}, and this library needs version "
            f"{self.needed}. Upgrade them with `mediator schema upgrade module:container`, or with "
            "`await upgrade_schema(engine)`."
        )


@dataclass(eq=False, repr=False)
class SchemaNewerError(MediatorError, RuntimeError):
    """The tables of this library in the database are newer than the library."""

    database: str
    version: int
    known: int

    def __str__(self) -> str:
        return (
            f"The tables in the database {self.database} are of version {self.version}, and this library knows them up to "
            f"version {self.known}. Nothing was changed. Install the version of the library that upgraded them, or a later "
            "one."
        )
