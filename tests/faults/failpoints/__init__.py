"""Every failpoint with an exception, a cancellation and SIGKILL, and the remaining rows and messages of each."""
