"""The wheel as users install it: it is marked as typed, and every public name has a known type."""

import json
import os
import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path

import pytest

pytestmark = pytest.mark.thorough("builds a wheel and checks types a second time")

ROOT = Path(__file__).parent.parent.parent
BIN = Path(sys.executable).parent


@pytest.fixture
def installed(tmp_path: Path) -> Path:
    """A virtual environment with the wheel and with the dependencies of the environment of the tests."""
    build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)]
    subprocess.run(build, cwd=ROOT, check=True, capture_output=True)
    environment = tmp_path / "environment"
    venv.create(environment, with_pip=False)
    packages = next(environment.glob("lib/python*/site-packages"))
    with zipfile.ZipFile(next(tmp_path.glob("*.whl"))) as wheel:
        wheel.extractall(packages)
    (packages / "needed.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return environment


def test_every_public_name_of_the_wheel_has_a_known_type(installed: Path, tmp_path: Path):
    environment = os.environ | {"PATH": f"{installed / 'bin'}{os.pathsep}{os.environ['PATH']}"}
    done = subprocess.run(
        [str(BIN / "pyright"), "--verifytypes", "mediator", "--ignoreexternal", "--outputjson"],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    completeness = json.loads(done.stdout)["typeCompleteness"]
    assert Path(completeness["pyTypedPath"]).is_relative_to(installed)
    assert completeness["exportedSymbolCounts"]["withKnownType"] > 1000
    errors = [
        (symbol["name"], diagnostic["message"])
        for symbol in completeness["symbols"]
        for diagnostic in symbol["diagnostics"]
        if diagnostic["severity"] == "error"
    ]
    assert errors == []
    assert completeness["completenessScore"] == 1.0
