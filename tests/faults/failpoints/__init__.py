"""Every failpoint, hit by an exception, a cancellation and SIGKILL, and what is left then."""
