"""Importing: how long a fresh interpreter takes to import the package and its dependencies."""

import os
import subprocess
import sys
import tempfile

from tests.benchmarks.measuring import Times

STATEMENTS = {"mediator": "import mediator", "what it stands on": "import asyncio, structlog, dependency_injector"}
SCRIPT = "import time; start = time.process_time_ns()\n{}\nprint(time.process_time_ns() - start)"


def measure_imports(rounds: int) -> Times:
    """Return the processor times of each import, in turns, after one round that fills file system and bytecode caches."""
    taken: dict[str, list[float]] = {name: [] for name in STATEMENTS}
    with tempfile.TemporaryDirectory() as bytecode:
        environment = os.environ | {"PYTHONPYCACHEPREFIX": bytecode}
        environment.pop("PYTHONDONTWRITEBYTECODE", None)
        for turn in range(rounds + 1):
            for name, statement in STATEMENTS.items():
                seconds = _seconds(statement, environment)
                if turn:
                    taken[name].append(seconds)
    return Times(taken)


def _seconds(statement: str, environment: dict[str, str]) -> float:
    command = [sys.executable, "-c", SCRIPT.format(statement)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    return int(done.stdout) / 1e9


async def importing(rounds: int) -> Times:
    return measure_imports(rounds)
