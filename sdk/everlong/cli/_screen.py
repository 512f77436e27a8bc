"""What people see. All text goes through here, and is made harmless on the way.

Nothing else in the CLI draws (but for the live parts of `run` and `bulk`), so no command can forget
it. Rich's markup is never on: brackets in data are brackets. NO_COLOR and TERM=dumb are honoured by
Rich.
"""

import os
import sys
from collections.abc import Generator, Sequence
from contextlib import contextmanager, redirect_stdout
from typing import Final, NoReturn, TypeAlias

from rich.console import Console
from rich.table import Table
from rich.text import Text

from everlong.cli._exits import ExitCode
from everlong.cli._neutral import neutral, neutral_lines

__all__ = [
    "STATUS",
    "Cell",
    "Part",
    "Screen",
    "cropped",
    "err",
    "out",
    "output_kept_for_document",
    "styled",
    "write",
]

Part: TypeAlias = str | tuple[str, str]
"""A text, or a text and its style."""
Cell: TypeAlias = Part | list[Part]

# A pipe has no width, and an id that is cut off cannot be pasted.
_PIPE_COLUMNS: Final = 10_000
_NARROWEST_COLUMNS: Final = 20
_STDOUT: Final = 1
_STDERR: Final = 2

STATUS: Final = {
    "running": ("●", "cyan"),
    "blocked": ("■", "yellow"),
    "paused": ("‖", "yellow"),
    "completed": ("✓", "green"),
    "failed": ("✗", "red"),
    "cancelled": ("○", "dim"),
    "terminated": ("○", "red"),
    "timed_out": ("✗", "red"),
    "continued_as_new": ("↻", "dim"),
    "retried": ("↻", "yellow"),
    "reset": ("↺", "dim"),
    "moved": ("→", "dim"),
}


class _Console(Console):
    def on_broken_pipe(self) -> NoReturn:
        _reader_has_gone()


class Screen:
    """One stream: lines, tables and blocks of text."""

    def __init__(self, console: Console) -> None:
        self.console = console

    @property
    def is_live(self) -> bool:
        """Whether somebody watches, so that things may move."""
        return self.console.is_terminal and not self.console.is_dumb_terminal

    def say(self, *parts: Part, indent: int = 0, hang: int = 2) -> None:
        """One line; where a terminal is too narrow it goes on below, `hang` columns further in."""
        text = styled(*parts)
        if not self.console.is_terminal:
            self.console.print(Text(" " * indent).append_text(text), soft_wrap=True)
            return
        room = max(self.console.width - indent - hang, _NARROWEST_COLUMNS)
        fits = text.cell_len <= self.console.width - indent
        lines = [text] if fits else text.wrap(self.console, room, overflow="fold")
        for number, line in enumerate(lines):
            before = Text(" " * (indent + hang if number else indent))
            self.console.print(before.append_text(line), soft_wrap=True)

    def explain(self, *parts: Part, text: str, indent: int = 0, style: str = "") -> None:
        """A text that may have several lines: the first behind `parts`, the others below it.

        They are set in, so that a line break in data cannot pass for a line of ours.
        """
        first, *rest = neutral_lines(text)
        self.say(*parts, (first, style), indent=indent)
        for line in rest:
            self.say((line, style), indent=indent + 4)

    def block(self, text: str, *, indent: int = 0, style: str = "") -> None:
        """Several lines, such as a traceback."""
        for line in neutral_lines(text):
            self.console.print(Text(" " * indent + line, style), soft_wrap=True)

    def table(self, rows: Sequence[Sequence[Cell]], *, header: Sequence[str] = ()) -> None:
        """Columns without lines; the last one folds when there is no room."""
        if not rows:
            return
        table = Table(
            box=None,
            show_header=bool(header),
            header_style="dim",
            pad_edge=False,
            padding=(0, 2, 0, 0),
        )
        for column in range(len(rows[0])):
            table.add_column(
                header[column] if header else "",
                overflow="fold",
                no_wrap=column < len(rows[0]) - 1,
            )
        for row in rows:
            table.add_row(*(_cell(cell) for cell in row))
        if self.console.is_terminal:
            self.console.print(table)
            return
        with self.console.capture() as drawn:
            self.console.print(table)
        for line in drawn.get().splitlines():
            self.console.print(Text(line.rstrip()), soft_wrap=True)


def out() -> Screen:
    """Standard output: what was asked for."""
    return Screen(_console(stderr=False))


def err() -> Screen:
    """Standard error: progress, notes and errors."""
    return Screen(_console(stderr=True))


def _console(*, stderr: bool) -> Console:
    console = _Console(stderr=stderr, highlight=False, markup=False, emoji=False)
    if not console.is_terminal:
        console.width = _PIPE_COLUMNS
    return console


@contextmanager
def output_kept_for_document(wanted: bool) -> Generator[None]:
    """Meanwhile, what anybody prints goes to standard error: also processes of a pool."""
    if not wanted:
        yield
        return
    sys.stdout.flush()
    own = os.dup(_STDOUT)
    os.dup2(_STDERR, _STDOUT)
    try:
        with redirect_stdout(sys.stderr):
            yield
    finally:
        sys.stdout.flush()
        os.dup2(own, _STDOUT)
        os.close(own)


def write(text: str) -> None:
    """A document for programs, as it is."""
    try:
        sys.stdout.write(text + "\n")
        sys.stdout.flush()
    except BrokenPipeError:
        _reader_has_gone()


def styled(*parts: Part) -> Text:
    """Harmless text from parts."""
    text = Text()
    for part in parts:
        words, style = (part, "") if isinstance(part, str) else part
        text.append(neutral(words), style)
    return text


def cropped(text: str, chars_max: int) -> str:
    """The beginning of a text that would be too long."""
    return text if len(text) <= chars_max else text[: chars_max - 1] + "…"


def _cell(cell: Cell) -> Text:
    return styled(*cell) if isinstance(cell, list) else styled(cell)


def _reader_has_gone() -> NoReturn:
    # Python flushes once more at exit, and would complain.
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    raise SystemExit(ExitCode.BROKEN_PIPE)
