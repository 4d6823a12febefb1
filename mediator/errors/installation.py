"""What is installed and runs: the distribution, what it lacks, a stranger of the same name, a worker that does not stop."""

import os
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from mediator.errors.root import MediatorError

DISTRIBUTION = "mediator-uow"

_METADATA = re.compile(r"mediator(?:-(?P<version>\d[^-]*).*)?\.(?:dist|egg)-info", re.IGNORECASE)
_IMPORTED_AS_MEDIATOR = re.compile(r"^mediator(?:[./]|$)", re.MULTILINE)


@dataclass(eq=False, repr=False)
class MissingExtraError(MediatorError, ModuleNotFoundError):
    """A part of the package was used without what it needs.

    Attributes:
        module: What is not installed.
        extra: The extra that brings it.
    """

    module: str
    extra: str

    def __post_init__(self) -> None:
        self.name: str | None = self.module

    def __str__(self) -> str:
        return f"{self.module} is not installed. Install it with: pip install '{DISTRIBUTION}[{self.extra}]'"


@dataclass(eq=False, repr=False)
class ForeignDistributionError(MediatorError, ImportError):
    """The distribution `mediator`, a stranger's with the same import name, is or was in the same environment.

    Attributes:
        place: The folder that it is in.
        version: Its version, where its metadata is still there and has one.
    """

    place: str
    version: str = ""

    def __post_init__(self) -> None:
        self.name: str | None = "mediator"

    def __str__(self) -> str:
        foreign = f"mediator {self.version}".rstrip()
        return (
            f"The distribution {foreign} in {self.place} is not this one: it is a stranger's with the same import name. "
            f"This one is called {DISTRIBUTION}, and an environment can hold only one of them: what is imported would be "
            "the other one, or a mixture. Uninstall it: pip uninstall mediator. Then install this one again, for some of "
            f"its files may be gone: pip install --force-reinstall --no-deps {DISTRIBUTION}, or the path of its source in "
            "place of the name."
        )


@dataclass(eq=False, repr=False)
class WorkerNotStoppedError(MediatorError, TimeoutError):
    """A worker went on in spite of being cancelled; what it uses is closed all the same."""

    worker: str
    seconds: float

    def __str__(self) -> str:
        return (
            f"The worker {self.worker} was told to stop and did not within {self.seconds:g} s. Let its `run()` pass on "
            "CancelledError, or raise `drain_timeout` if it only needs longer."
        )


def refuse_foreign_distribution() -> None:
    """Tell a mixture with the stranger's distribution from this one.

    The folders are listed here because to import `importlib.metadata` takes longer than to import half of this package.

    Raises:
        ForeignDistributionError: It is installed, or has taken `mediator/__init__.py` along when it was uninstalled.
    """
    for folder in sys.path:
        for entry in _entries(folder):
            metadata = _METADATA.fullmatch(entry)
            if metadata is not None and _is_imported_as_mediator(Path(folder, entry)):
                raise ForeignDistributionError(folder, metadata["version"] or "")
    if not hasattr(sys.modules.get("mediator"), "__version__"):  # the first thing that our own `__init__.py` does
        raise ForeignDistributionError(str(Path(__file__).parents[2]))


def _entries(folder: str) -> Iterator[str]:
    try:
        yield from os.listdir(folder or ".")  # noqa: PTH208  # a third of the time that paths take
    except (OSError, TypeError, ValueError):  # a zip file, a folder that does not exist, or no path at all
        return


def _is_imported_as_mediator(metadata: Path) -> bool:
    """Whether files of a distribution are; a checkout of an earlier name of ours, for one, has only a path installed."""
    for name in ("RECORD", "top_level.txt"):
        try:
            return _IMPORTED_AS_MEDIATOR.search((metadata / name).read_text("utf-8", "replace")) is not None
        except OSError:
            continue
    return True
