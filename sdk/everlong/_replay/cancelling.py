"""Cancellation of a run: a state, delivered once.

The first request raises `CancelledError` where the main task waits. anyio's shielded scopes hold
off what comes from outside of them, and so they hold off this: it is delivered as soon as the main
task waits outside of them. `asyncio.shield` protects what it is given, and not who waits for it.
"""

import asyncio

from everlong._replay.anyio_adapter import is_shielded

__all__ = ["Cancellation"]


class Cancellation:
    """Whether a run was asked to end, and whether its code has been told."""

    def __init__(self) -> None:
        self.reason: str | None = None
        """Why; None as long as nobody has asked."""
        self.held = False
        """Asked, and not yet told: the main task is shielded."""

    def ask(self, reason: str, main: asyncio.Task[None] | None) -> None:
        """Take a request. Later ones change nothing."""
        if self.reason is not None or main is None:
            return
        self.reason = reason
        if is_shielded(main):
            self.held = True
        else:
            main.cancel(reason)

    def at_rest(self, main: asyncio.Task[None] | None) -> bool:
        """Tell what is held, if nothing shields the main task any more; whether that was so."""
        if not self.held or main is None or main.done() or is_shielded(main):
            return False
        self.held = False
        main.cancel(self.reason)
        return True
