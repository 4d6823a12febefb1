"""Wiring: whether the container is put together well, and whether its parts can be made."""

from collections.abc import AsyncIterator

from mediator.cli.doctor.check import Check
from mediator.cli.doctor.finding import Finding, fault, ok
from mediator.cli.doctor.installation import Failure, Installation
from mediator.dependency_injector import validate
from mediator.errors import ContainerValidationError, DatabaseUnavailableError, SchemaNewerError, SchemaOutdatedError

_SCHEMA = (SchemaOutdatedError, SchemaNewerError)


class Wiring(Check):
    """What `validate` says."""

    name = "wiring"

    async def run(self, installation: Installation) -> AsyncIterator[Finding]:
        """See `Check.run`."""
        options = installation.options
        try:
            validate(installation.container, packages=options.packages, relay_elsewhere=options.relay_elsewhere)
        except ContainerValidationError as error:
            for problem in error.problems:
                yield fault("wiring", problem.label, problem.text, "Mend it; the application does not start.")
        else:
            yield ok("wiring", "container", "handlers, behaviors and workers can be made")


class Parts(Check):
    """What could not be opened."""

    name = "parts"

    async def run(self, installation: Installation) -> AsyncIterator[Finding]:
        """See `Check.run`."""
        for failure in installation.failures:
            yield _failed(failure)


def _failed(failure: Failure) -> Finding:
    error = failure.error
    text = f"{type(error).__name__}: {error}"
    if isinstance(error, _SCHEMA):
        return fault("schema-version", failure.label, str(error), "Bring the tables and the library together.")
    if failure.kind == "database" or isinstance(error, DatabaseUnavailableError):
        remedy = "See whether the server runs, and whether address, user and password are right."
        return fault("database-unreachable", failure.label, text, remedy)
    if failure.setting:
        remedy = "Give it a value that can be had and can work; the error says why this one does not."
        return fault("part-failed", failure.label, f"{failure.setting}: {text}", remedy)
    return fault("part-failed", failure.label, text, "It could not be made; the error says why.")
