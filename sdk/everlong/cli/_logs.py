"""The log of `run` and `worker`, on standard error: messages hold data, so they are made harmless.

Retries are worth a line (INFO of `everlong`); other libraries only when they warn.
"""

import logging
import time

from everlong.cli._neutral import neutral_lines
from everlong.cli._screen import Screen

__all__ = ["log_to"]

_STYLES = {"WARNING": "yellow", "ERROR": "red", "CRITICAL": "red"}


class _ScreenHandler(logging.Handler):
    def __init__(self, screen: Screen) -> None:
        super().__init__()
        self._screen = screen

    def emit(self, record: logging.LogRecord) -> None:
        at = time.strftime("%H:%M:%S", time.gmtime(record.created))
        style = _STYLES.get(record.levelname, "")
        name = "" if record.name == "everlong" else f"{record.name}: "
        try:
            first, *rest = neutral_lines(self.format(record))
            self._screen.say((at, "dim"), "  ", (name + first, style))
            for line in rest:
                self._screen.say((line, "dim"), indent=10)
        except Exception:
            self.handleError(record)


def log_to(screen: Screen, *, retries: bool) -> None:
    """Replace the handlers of the root logger. `retries` shows failed attempts, too."""
    handler = _ScreenHandler(screen)
    handler.setFormatter(logging.Formatter("%(message)s"))
    logging.basicConfig(level=logging.WARNING, handlers=[handler], force=True)
    logging.getLogger("everlong").setLevel(logging.INFO if retries else logging.WARNING)
