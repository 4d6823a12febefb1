"""Programs that show at full size what is promised: `python -m tests.faults.scenarios relays|outage|ordered|poison`."""
