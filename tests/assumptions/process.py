"""Process: another Python process that acquires something, prints "ready" and waits until it is killed."""

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def holding(program: str, *arguments: str) -> Iterator["subprocess.Popen[str]"]:
    """Run a program until it prints "ready"; kill it with SIGKILL at the end of the block."""
    ready = "\nprint('ready', flush=True)\nimport sys\nsys.stdin.read()\n"
    process = subprocess.Popen(
        [sys.executable, "-c", f"import sys\n{program}{ready}", *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    with process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
            yield process
        finally:
            process.kill()
