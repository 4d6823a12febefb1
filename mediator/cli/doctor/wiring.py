"""Wiring: checks whether the container is valid, and whether its parts can be created."""

from collections.abc import AsyncIterator

from mediator.cli.doctor.finding import Check, Finding, fault, ok
from mediator.cli.doctor.installation import Failure, Installation
from mediator.dependency_injector import validate
from mediator.errors import ContainerValidationError, DatabaseUnavailableError, SchemaError


class Wiring(Check):
    """Checks the container with `validate`."""

    name = "wiring"

    async def run(self, installation: Installation) -> AsyncIterator[Finding]:
        options = installation.options
        try:
            validate(installation.container, packages=options.packages, relay_elsewhere=options.relay_elsewhere)
        except ContainerValidationError as error:
            for problem in error.problems:
                yield fault(
                    "wiring",
                    problem.label,
                    problem.text,
                    "Correct this: with a fault in the wiring, the application does not start.",
                )
        else:
            yield ok("wiring", "container", "handlers, behaviors and workers can be made")


class Parts(Check):
    """Reports the parts that could not be opened."""

    name = "parts"

    async def run(self, installation: Installation) -> AsyncIterator[Finding]:
        for failure in installation.failures:
            yield _failed(failure)


def _failed(failure: Failure) -> Finding:
    error = failure.error
    text = f"{type(error).__name__}: {error}"
    if isinstance(error, SchemaError) and error.version is not None:
        return fault("schema-version", failure.label, str(error), "Upgrade the tables or the library.")
    if failure.kind == "database" or isinstance(error, DatabaseUnavailableError):
        remedy = "Check that the server runs, and that address, user and password are right."
        return fault("database-unreachable", failure.label, text, remedy)
    if failure.setting:
        remedy = "Give the argument another value. The error says why this value cannot be used."
        return fault("part-failed", failure.label, f"{failure.setting}: {text}", remedy)
    return fault("part-failed", failure.label, text, "Correct the cause that the error names.")
