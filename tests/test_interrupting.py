"""Ctrl-C reaches the processes that tests start, even if the tests run in the background of a script."""

import signal

from tests.conftest import restore_ctrl_c


def test_a_session_started_with_ctrl_c_ignored_handles_ctrl_c():
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        restore_ctrl_c()
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    finally:
        signal.signal(signal.SIGINT, before)
