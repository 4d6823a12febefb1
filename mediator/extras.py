"""Extra: imports optional dependencies, and says how to install a missing one."""

from types import TracebackType

from mediator.errors import MissingExtraError


class Extra:
    """A block that imports the dependencies of an extra: `with Extra("fastapi"): from fastapi import Depends`.

    Raises:
        MissingExtraError: A module is not installed. This error is a `ModuleNotFoundError`, so code that catches a
            `ModuleNotFoundError` still works.
    """

    def __init__(self, name: str) -> None:
        self.name: str = name

    def __enter__(self) -> None:
        """Do nothing: only the end of the block matters."""

    def __exit__(
        self, _kind: type[BaseException] | None, error: BaseException | None, _traceback: TracebackType | None
    ) -> None:
        if isinstance(error, ModuleNotFoundError):
            module = (error.name or str(error)).partition(".")[0]
            if module != "mediator":
                raise MissingExtraError(module, self.name) from error
