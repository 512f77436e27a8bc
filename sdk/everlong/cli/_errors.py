"""How an error reads: one line on standard error that says what to do, and the exit code.

A traceback is for two cases only: a user's module that raised while it was imported, and a bug.
"""

import traceback

from everlong.cli._documents import document
from everlong.cli._exits import ExitCode, Mistake, exit_code_of
from everlong.cli._screen import err, write
from everlong.exceptions import DefinitionError

__all__ = ["report"]


def report(error: Exception, *, as_json: bool) -> ExitCode:
    """Tell people (and with `--json` programs) what went wrong."""
    code = exit_code_of(error)
    screen = err()
    message = str(error) or type(error).__name__
    if code is ExitCode.BUG:
        screen.block("".join(traceback.format_exception(error)), style="dim")
        message = f"this is a bug in Everlong, please report it: {type(error).__name__}: {message}"
    elif isinstance(error, Mistake) and error.details:
        screen.block(error.details, style="dim")
    # A bad definition is told over several lines, of source and not of data.
    if isinstance(error, DefinitionError):
        screen.explain(("everlong: ", "red"), text=message)
    else:
        screen.say(("everlong: ", "red"), message)
    if as_json:
        kind = type(error).__name__
        write(document({"error": {"type": kind, "message": str(error), "exit_code": int(code)}}))
    return code
