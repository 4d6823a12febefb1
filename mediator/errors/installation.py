"""Errors of the installation, errors of workers that do not stop, and a check for another distribution `mediator`."""

import os
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from mediator.errors.root import MediatorError

DISTRIBUTION = "mediator-uow"
"""The name of this distribution. An unrelated distribution has the same import name, `mediator`."""

_METADATA = re.compile(r"mediator(?:-(?P<version>\d[^-]*).*)?\.(?:dist|egg)-info", re.IGNORECASE)
_IMPORTED_AS_MEDIATOR = re.compile(r"^mediator(?:[./]|$)", re.MULTILINE)


@dataclass(eq=False, repr=False)
class MissingExtraError(MediatorError, ModuleNotFoundError):
    """A part of this library needs an optional dependency that is not installed.

    Attributes:
        module: The module that is not installed, such as `sqlalchemy`.
        extra: The extra of this distribution that installs the module.
    """

    module: str
    extra: str

    def __post_init__(self) -> None:
        self.name: str | None = self.module

    def __str__(self) -> str:
        return f"{self.module} is not installed. Install it with: pip install '{DISTRIBUTION}[{self.extra}]'"


@dataclass(eq=False, repr=False)
class ForeignDistributionError(MediatorError, ImportError):
    """An unrelated distribution with the same import name, `mediator`, is or was in the same environment.

    Attributes:
        place: The folder of that distribution.
        version: The version of that distribution; empty when the metadata is gone or has no version.
    """

    place: str
    version: str = ""

    def __post_init__(self) -> None:
        self.name: str | None = "mediator"

    def __str__(self) -> str:
        foreign = f"mediator {self.version}".rstrip()
        return (
            f"The distribution {foreign} in {self.place} is not {DISTRIBUTION}, but has the same import name. An "
            "environment can hold only one of them, because their files overwrite each other. Uninstall mediator: pip "
            f"uninstall mediator. Then install {DISTRIBUTION} again, because some of its files may be gone: pip install "
            f"--force-reinstall --no-deps {DISTRIBUTION}, or the path of its source in place of the name."
        )


@dataclass(eq=False, repr=False)
class WorkerNotStoppedError(MediatorError, TimeoutError):
    """A worker still runs although it was cancelled. The resources that it uses are closed nevertheless."""

    worker: str
    seconds: float

    def __str__(self) -> str:
        return (
            f"The worker {self.worker} was cancelled and did not stop within {self.seconds:g} s. Make its `run()` re-raise "
            "CancelledError, or raise `drain_timeout` if the worker only needs more time."
        )


def refuse_foreign_distribution() -> None:
    """Raise an error if the unrelated distribution `mediator` is installed, or has deleted files of this distribution.

    Folders are listed without `importlib.metadata`, which takes longer to import than half of this package.

    Raises:
        ForeignDistributionError: The unrelated distribution is installed, or its removal has deleted our `__init__.py`.
    """
    for folder in sys.path:
        for entry in _entries(folder):
            metadata = _METADATA.fullmatch(entry)
            if metadata is not None and _is_imported_as_mediator(Path(folder, entry)):
                raise ForeignDistributionError(folder, metadata["version"] or "")
    if not hasattr(sys.modules.get("mediator"), "__version__"):  # our own `__init__.py` sets `__version__` first
        raise ForeignDistributionError(str(Path(__file__).parents[2]))


def _entries(folder: str) -> Iterator[str]:
    try:
        yield from os.listdir(folder or ".")  # noqa: PTH208  # three times as fast as pathlib
    except (OSError, TypeError, ValueError):  # `folder` may be a zip file, may not exist or may be no path
        return


def _is_imported_as_mediator(metadata: Path) -> bool:
    """Return whether a distribution lists files of the package `mediator`; False for an editable install."""
    for name in ("RECORD", "top_level.txt"):
        try:
            return _IMPORTED_AS_MEDIATOR.search((metadata / name).read_text("utf-8", "replace")) is not None
        except OSError:
            continue
    return True
