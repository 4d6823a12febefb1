"""Programs that check promises at full size: `python -m tests.faults.scenarios <scenario>`; see `--help`."""
