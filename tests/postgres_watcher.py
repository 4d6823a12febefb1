"""Watcher: a process that outlives the owner of a PostgreSQL server, however that dies, and clears up after it.

It reads a pipe whose other end only the owner has. The operating system closes that end with the owner, also after
SIGKILL. Should the watcher die too, the next server that is started finds the folder and does its work.
"""

import contextlib
import shutil
import subprocess
import sys
from pathlib import Path

import psutil

PREFIX = "mediator-postgres-"
_OWNER = "owner"


def watch(folder: Path) -> "subprocess.Popen[bytes]":
    """Write down that this process owns a server's folder, and have that watched until the pipe is closed."""
    owner = psutil.Process()
    (folder / _OWNER).write_text(f"{owner.pid} {owner.create_time()}")
    return subprocess.Popen(
        [sys.executable, __file__, str(folder)],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
        cwd="/",
    )


def clear_up_after_the_dead(temporary: Path) -> list[Path]:
    """End the servers whose owners died, remove their folders, and return these."""
    folders = [folder for folder in temporary.glob(f"{PREFIX}*") if _is_orphan(folder)]
    for folder in folders:
        _clear_up(folder)
    return folders


def _is_orphan(folder: Path) -> bool:
    """Not one without a note: its owner may be about to write it."""
    try:
        pid, created = (folder / _OWNER).read_text().split()
        return psutil.Process(int(pid)).create_time() != float(created)
    except psutil.NoSuchProcess:
        return True
    except (OSError, ValueError, psutil.Error):
        return False


def _clear_up(folder: Path) -> None:
    data = folder / "server" / "data"
    with contextlib.suppress(OSError, ValueError, psutil.Error):
        postmaster = psutil.Process(int((data / "postmaster.pid").read_text().split()[0]))
        if str(data) in postmaster.cmdline():  # not another process that has its number by now
            postmaster.suspend()  # it starts no more
            processes = [*postmaster.children(recursive=True), postmaster]
            for process in processes:
                with contextlib.suppress(psutil.NoSuchProcess):
                    process.kill()
            psutil.wait_procs(processes, timeout=10)
    shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    sys.stdin.read()
    _clear_up(Path(sys.argv[1]))
