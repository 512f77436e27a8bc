"""The exit codes, in one place. `docs/reference/cli.md` shows the same table; a test compares."""

from enum import IntEnum
from typing import Final

from everlong.exceptions import (
    AlreadyAnswered,
    ApprovalNotFound,
    DefinitionError,
    EverlongError,
    ImportRefused,
    InvalidArguments,
    InvalidFilter,
    InvalidTag,
    NoAnswer,
    NotSerializable,
    PayloadTooLarge,
    StoreError,
    UndecodablePayload,
    UnreadableExport,
    WorkflowAlreadyStarted,
    WorkflowClosed,
    WorkflowNotFound,
)

__all__ = ["ExitCode", "Mistake", "exit_code_of"]


class ExitCode(IntEnum):
    """What a command says to the shell."""

    OK = 0
    PROBLEM = 1
    USAGE = 2
    STORE = 3
    NOT_THERE = 4
    NO_ANSWER = 5
    BUG = 70
    INTERRUPTED = 130
    BROKEN_PIPE = 141
    TERMINATED = 143

    @property
    def meaning(self) -> str:
        """As the reference has it."""
        return _MEANINGS[self]


_MEANINGS: Final = {
    ExitCode.OK: "done; what was asked for is so",
    ExitCode.PROBLEM: (
        "a problem was found: the workflow failed, was cancelled, terminated or timed out, or is "
        "blocked; a query or an update failed; `verify` found damage; `lint` found a mistake"
    ),
    ExitCode.USAGE: (
        "the command is wrong: an unknown option, arguments that do not fit the workflow, a file "
        "that cannot be imported; nothing was started"
    ),
    ExitCode.STORE: (
        "the store cannot be used: missing, foreign, damaged, full, newer, or owned by another "
        "worker"
    ),
    ExitCode.NOT_THERE: (
        "no such workflow, or it is closed, or its id is taken; no such approval, or it is answered"
    ),
    ExitCode.NO_ANSWER: "no worker answered in time",
    ExitCode.BUG: "a bug in Everlong: please report the traceback",
    ExitCode.INTERRUPTED: "interrupted (Ctrl-C); a run goes on when it is run again",
    ExitCode.BROKEN_PIPE: "whoever read the output has gone (`| head`)",
    ExitCode.TERMINATED: "asked to end (SIGTERM); a run goes on when it is run again",
}


class Mistake(Exception):
    """The command line asks for something that cannot be; the message says what would do."""

    def __init__(self, message: str, *, code: ExitCode = ExitCode.USAGE, details: str = "") -> None:
        super().__init__(message)
        self.code = code
        self.details = details
        """Several lines for below the message, such as the traceback of a user's module."""


_WRONG: Final = (
    InvalidArguments,
    DefinitionError,
    NotSerializable,
    PayloadTooLarge,
    UnreadableExport,
)
# The first that fits.
_CODES: Final[tuple[tuple[tuple[type[Exception], ...], ExitCode], ...]] = (
    (
        (
            InvalidArguments,
            InvalidFilter,
            InvalidTag,
            DefinitionError,
            NotSerializable,
            PayloadTooLarge,
            UnreadableExport,
        ),
        ExitCode.USAGE,
    ),
    (
        (
            WorkflowNotFound,
            WorkflowClosed,
            WorkflowAlreadyStarted,
            ImportRefused,
            ApprovalNotFound,
            AlreadyAnswered,
        ),
        ExitCode.NOT_THERE,
    ),
    ((NoAnswer,), ExitCode.NO_ANSWER),
    ((StoreError, UndecodablePayload, OSError), ExitCode.STORE),
    ((EverlongError,), ExitCode.PROBLEM),
)


def exit_code_of(error: Exception) -> ExitCode:
    """The code of an error; BUG for one that nobody raises on purpose."""
    if isinstance(error, Mistake):
        return error.code
    return next((code for kinds, code in _CODES if isinstance(error, kinds)), ExitCode.BUG)
