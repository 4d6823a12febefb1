"""Database cluster: the folder of data that a new PostgreSQL server starts with.

`initdb` takes a second of processor time. Therefore its result is kept next to pytest's cache for each version and copied.
"""

import os
import pwd
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Any

CACHE = Path(__file__).parents[1] / ".pytest_cache"
_OPTIONS = ("-U", "postgres", "-A", "trust", "-E", "UTF8", "--locale=C", "--no-sync")


class ClusterError(RuntimeError):
    """`initdb` failed."""


def create_cluster(binaries: Path, data: Path, user: pwd.struct_passwd | None) -> None:
    """Make an empty cluster that is owned by the user of the server."""
    kept = CACHE / f"cluster of {_version(binaries)}"
    if kept.is_dir():
        shutil.copytree(kept, data)
        _change_owner(data, user)
    else:
        _initdb(binaries, data, user)
        _store(data, kept)


def _version(binaries: Path) -> str:
    done = subprocess.run([str(binaries / "postgres"), "--version"], capture_output=True, text=True, check=True)
    return done.stdout.strip().replace("/", "-")


def _initdb(binaries: Path, data: Path, user: pwd.struct_passwd | None) -> None:
    done = subprocess.run(
        [str(binaries / "initdb"), "-D", str(data), *_OPTIONS],
        capture_output=True,
        text=True,
        cwd="/",
        env=environment(),
        check=False,
        **as_user(user),
    )
    if done.returncode != 0:
        raise ClusterError(f"initdb failed:\n{done.stdout}{done.stderr}")


def _store(data: Path, kept: Path) -> None:
    """Keep a new cluster atomically. If several processes make one at the same time, the first is kept."""
    CACHE.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(dir=CACHE) as temporary:
        copied = Path(temporary) / "data"
        shutil.copytree(data, copied)
        try:
            copied.rename(kept)
        except OSError:
            if not kept.is_dir():  # another process made it in the meantime
                raise


def _change_owner(data: Path, user: pwd.struct_passwd | None) -> None:
    if user is not None:
        for each in (data, *data.rglob("*")):
            os.chown(each, user.pw_uid, user.pw_gid)


def as_user(user: pwd.struct_passwd | None) -> dict[str, Any]:
    """Return the arguments that start a process as the given user."""
    return {} if user is None else {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": []}


def environment() -> dict[str, str]:
    """Return the environment without the variables that clients and servers of PostgreSQL read."""
    return {name: value for name, value in os.environ.items() if not name.startswith("PG")} | {"LC_ALL": "C"}
