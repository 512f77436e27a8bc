"""Processes that tests begin and that must not outlive them, whatever becomes of the test."""

import ctypes
import signal
from collections.abc import Callable
from typing import Final

__all__ = ["die_with_parent"]

_PR_SET_PDEATHSIG: Final = 1


def die_with_parent(number: signal.Signals = signal.SIGKILL) -> Callable[[], None]:
    """For `preexec_fn`: one call into the kernel, which signals the child when the thread has ended
    that began it. So begin it in the main thread."""

    def ask() -> None:
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, number)

    return ask
