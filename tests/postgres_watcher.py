"""Watcher: a process that outlives the owner of a PostgreSQL server and cleans up after the owner's death.

It reads a pipe whose other end only the owner has. The operating system closes that end when the owner dies, also by
SIGKILL. If the watcher dies too, the next server that starts finds the folder and cleans up.
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
    """Record that this process owns a server's folder, and start a watcher that waits until the pipe is closed."""
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
    """End the servers whose owners died, remove their folders, and return the removed folders."""
    folders = [folder for folder in temporary.glob(f"{PREFIX}*") if _is_orphan(folder)]
    for folder in folders:
        _clear_up(folder)
    return folders


def _is_orphan(folder: Path) -> bool:
    """Return whether the owner of a folder is dead. Without a record the owner may be about to write one."""
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
        if str(data) in postmaster.cmdline():  # the process id may have been reused by another process
            postmaster.suspend()  # it starts no further processes
            processes = [*postmaster.children(recursive=True), postmaster]
            for process in processes:
                with contextlib.suppress(psutil.NoSuchProcess):
                    process.kill()
            psutil.wait_procs(processes, timeout=10)
    shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    sys.stdin.read()
    _clear_up(Path(sys.argv[1]))
