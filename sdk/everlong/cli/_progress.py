"""The live view of `run`: what has happened scrolls up, what is under way stands below and moves.

Where nobody watches (a pipe, a log file) only what has happened is printed, a line each.
"""

import sys
from collections.abc import Sequence
from types import TracebackType
from typing import Final, Self

from rich.console import Group, RenderableType
from rich.live import Live
from rich.text import Text

from everlong.cli._durations import now, span
from everlong.cli._neutral import neutral
from everlong.cli._screen import Part, Screen, cropped, styled
from everlong.cli._steps import OpenStep, Step

__all__ = ["Progress"]

_OPEN_SHOWN_MAX: Final = 8
_NAME_COLUMNS_MAX: Final = 28
_FRAMES: Final = "⠋⠙⠹⠸⠼⠴⠦⠧⠇⠏"
_FRAMES_PER_S: Final = 8


class Progress:
    """Shows the steps of one execution on a screen."""

    def __init__(self, screen: Screen) -> None:
        self._screen = screen
        self._open: Sequence[OpenStep] = ()
        self._columns = 12
        self._live: Live | None = None

    def __enter__(self) -> Self:
        if self._screen.is_live:
            self._live = Live(
                get_renderable=self._moving,
                console=self._screen.console,
                refresh_per_second=_FRAMES_PER_S,
                transient=True,
                # Output of the workflow's own code goes above the moving part, if it is on screen.
                redirect_stdout=sys.stdout.isatty(),
            )
            self._live.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._live is not None:
            self._open = ()
            self._live.stop()

    def show(self, steps: Sequence[Step], open_steps: Sequence[OpenStep]) -> None:
        """Print what has happened; replace what is under way."""
        self._open = open_steps
        for step in steps:
            name = self._name(step.name)
            parts: list[Part] = [(f"{step.mark} ", step.style), name, (step.detail, "dim")]
            self._screen.say(*parts, indent=2, hang=self._columns + 4)

    def _name(self, name: str) -> str:
        shown = cropped(neutral(name), _NAME_COLUMNS_MAX)
        self._columns = max(self._columns, len(shown))
        return shown.ljust(self._columns + 2)

    def _moving(self) -> RenderableType:
        """Drawn on a thread of Rich's, several times a second."""
        open_steps = self._open
        at = now()
        frame = _FRAMES[int(at.timestamp() * _FRAMES_PER_S) % len(_FRAMES)]
        lines: list[Text] = []
        for step in open_steps[:_OPEN_SHOWN_MAX]:
            mark = frame if step.due is None else "◷"
            seconds = (step.due - at if step.due else at - step.since).total_seconds()
            detail = f"in {span(seconds)}" if step.due else span(seconds)
            if step.attempt > 1:
                detail += f"  attempt {step.attempt}"
            parts: list[Part] = [f"  {mark} ", self._name(step.name), (detail, "dim")]
            if step.last_error:
                parts.append((f"  {step.last_error}", "yellow"))
            lines.append(_one_row(parts))
        if len(open_steps) > _OPEN_SHOWN_MAX:
            lines.append(_one_row([(f"    and {len(open_steps) - _OPEN_SHOWN_MAX} more", "dim")]))
        if not open_steps:
            lines.append(_one_row([f"  {frame} ", ("waiting for what comes from outside", "dim")]))
        return Group(*lines)


def _one_row(parts: Sequence[Part]) -> Text:
    """Cropped by the terminal's width: a moving part that wraps would jump."""
    text = styled(*parts)
    text.no_wrap = True
    text.overflow = "ellipsis"
    return text
