"""Imports: importing the package has no side effect, and imports follow the layers."""

import subprocess
import sys
from pathlib import Path

from tests.architecture.package import ROOT

EXTRAS = (
    "sqlalchemy",
    "aiosqlite",
    "asyncpg",
    "filelock",
    "click",
    "rich",
    "opentelemetry",
    "pydantic",
    "nats_server",
    "tenacity",
    "pytest",
)

IMPORTS_NO_EXTRA = f"""
import sys
import structlog  # imports rich if it is installed
before = set(sys.modules)
import mediator
print(sorted(set({EXTRAS!r}) & (set(sys.modules) - before)))
"""

CHANGES_NOTHING = """
import asyncio, logging, signal, sys, warnings
import structlog

def state():
    return (
        structlog.is_configured(),
        repr(structlog.get_config()["processors"]),
        logging.getLogger().handlers[:],
        sorted(name for name in logging.Logger.manager.loggerDict if name.startswith("mediator")),
        signal.getsignal(signal.SIGTERM),
        signal.getsignal(signal.SIGINT),
        sys.excepthook,
        list(warnings.filters),
        asyncio.get_event_loop_policy.__module__,
    )

before = state()
import mediator
print(state() == before)
"""


def python(code: str) -> str:
    """Run a program in a fresh interpreter and return its output."""
    command = [sys.executable, "-c", code]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.strip()


def test_importing_the_package_imports_no_extra():
    assert python(IMPORTS_NO_EXTRA) == "[]"


def test_importing_the_package_has_no_side_effect():
    assert python(CHANGES_NOTHING) == "True"


def test_imports_run_downward_only():
    lint_imports = Path(sys.executable).parent / "lint-imports"
    done = subprocess.run([lint_imports, "--no-cache"], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
