"""What every child process of `serve` does first."""

import ctypes
import os
import signal
import sys

_PR_SET_PDEATHSIG = 1


def die_with_parent() -> None:
    """Ask the kernel to kill this process when the supervisor dies, however it dies (prctl(2), Linux).

    Without this a killed supervisor would leave a listener on its port and workers on its ledger. Everything
    durable is crash-safe, so a hard kill is no loss.
    """
    if not sys.platform.startswith("linux"):
        return
    parent = os.getppid()
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:  # it died before we asked
        os.kill(os.getpid(), signal.SIGKILL)
