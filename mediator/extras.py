"""Extra: a part of the package that needs more to be installed, and says how where it is not."""

from types import TracebackType

from mediator.errors import MissingExtraError


class Extra:
    """Imports what an extra brings: `with Extra("fastapi"): from fastapi import Depends`.

    Raises:
        MissingExtraError: A module is not installed. It is a `ModuleNotFoundError`, so what looks for one finds it.
    """

    def __init__(self, name: str) -> None:
        self.name: str = name

    def __enter__(self) -> None:
        """Nothing needs to be done before."""

    def __exit__(
        self, _kind: type[BaseException] | None, error: BaseException | None, _traceback: TracebackType | None
    ) -> None:
        if isinstance(error, ModuleNotFoundError):
            module = (error.name or str(error)).partition(".")[0]
            if module != "mediator":
                raise MissingExtraError(module, self.name) from error
