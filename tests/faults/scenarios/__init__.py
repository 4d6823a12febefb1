"""Programs that show at full size what is promised: `python -m tests.faults.scenarios <scenario>`; see `--help`."""
