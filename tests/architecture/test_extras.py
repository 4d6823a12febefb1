"""The errors of a missing extra name the command that installs it."""

import subprocess
import sys
from pathlib import Path

import pytest

IMPORT = """
import sys
sys.modules[{module!r}] = None
from mediator import MediatorError
try:
    import {part}
except ModuleNotFoundError as error:
    print(type(error).__name__, isinstance(error, MediatorError), error.name, error, sep="|")
"""


OPEN = """
import asyncio, sys
sys.modules[{module!r}] = None
from mediator.errors import DatabaseUnavailableError
from mediator.sqlalchemy import open_engine
async def main():
    async with open_engine({url!r}):
        pass
try:
    asyncio.run(main())
except DatabaseUnavailableError as error:
    print(error)
"""


def run(program: str, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False, cwd=cwd)


@pytest.mark.parametrize(
    ("part", "module", "extra"),
    [
        ("mediator.behaviors.retry", "tenacity", "retry"),
        ("mediator.blocking", "anyio", "blocking"),
        ("mediator.fastapi", "fastapi", "fastapi"),
        ("mediator.opentelemetry", "opentelemetry", "opentelemetry"),
        ("mediator.pydantic", "pydantic", "pydantic"),
        ("mediator.sqlalchemy", "sqlalchemy", "sqlalchemy"),
        ("mediator.sqlalchemy.engine", "filelock", "sqlalchemy"),
    ],
)
def test_a_module_that_needs_an_extra_explains_how_to_install_it(part, module, extra):
    done = run(IMPORT.format(module=module, part=part))
    text = f"{module} is not installed. Install it with: pip install 'mediator-uow[{extra}]'"
    assert done.stdout.strip() == f"MissingExtraError|True|{module}|{text}", done.stderr


@pytest.mark.parametrize(
    ("url", "driver", "extra"),
    [("sqlite:///never.db", "aiosqlite", "sqlalchemy"), ("postgresql://u:secret@host/db", "asyncpg", "postgres")],
)
def test_opening_a_database_without_its_driver_names_the_missing_extra(url, driver, extra, tmp_path):
    done = run(OPEN.format(url=url, module=driver), cwd=tmp_path)
    text = f"{driver} is not installed. Install it with: pip install 'mediator-uow[{extra}]'"
    assert text in done.stdout, done.stderr
    assert "secret" not in done.stdout


def test_an_import_error_of_the_package_itself_is_no_missing_extra():
    done = run(IMPORT.format(module="mediator.sqlalchemy.engine", part="mediator.sqlalchemy"))
    assert done.stdout.startswith("ModuleNotFoundError|False|mediator.sqlalchemy.engine|"), done.stderr
