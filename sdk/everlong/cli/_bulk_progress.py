"""How far a bulk job is: one line that moves while somebody watches, and what came of it."""

from types import TracebackType
from typing import Final, Self

from rich.console import RenderableType
from rich.live import Live

from everlong.cli._durations import now
from everlong.cli._screen import Part, Screen, cropped, styled
from everlong.client import BulkReport

__all__ = ["BulkProgress", "tell_end"]

_DONE: Final = {
    "cancel": "asked to cancel",
    "terminate": "terminated",
    "signal": "signalled",
    "pause": "paused",
    "resume": "resumed",
    "reset": "reset",
    "retry": "retried",
}
_NAMED_MAX: Final = 10
_REASON_CHARS_MAX: Final = 200
_BAR_COLUMNS: Final = 32
_FRAMES: Final = "⠋⠙⠹⠸⠼⠴⠦⠧⠇⠏"
_FRAMES_PER_S: Final = 8


class BulkProgress:
    """The moving line."""

    def __init__(self, screen: Screen, *, shown: bool) -> None:
        self._report: BulkReport | None = None
        self._status = ""
        self._live: Live | None = None
        if shown and screen.is_live:
            self._live = Live(
                get_renderable=self._moving,
                console=screen.console,
                refresh_per_second=_FRAMES_PER_S,
                transient=True,
                redirect_stdout=False,
            )

    def __enter__(self) -> Self:
        if self._live is not None:
            self._live.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._live is not None:
            self._live.stop()

    def show(self, report: BulkReport, status: str) -> None:
        self._report, self._status = report, status

    def _moving(self) -> RenderableType:
        """Drawn on a thread of Rich's."""
        report = self._report
        frame = _FRAMES[int(now().timestamp() * _FRAMES_PER_S) % len(_FRAMES)]
        if report is None or not (report.about or report.matched):
            return styled((f"{frame} ", "cyan"), ("waiting for its first page", "dim"))
        about = max(report.about, report.matched)
        full = _BAR_COLUMNS * report.matched // about
        mark: Part = ("‖ ", "yellow") if self._status == "paused" else (f"{frame} ", "cyan")
        parts: list[Part] = [
            mark,
            f"{report.action}  ",
            ("━" * full, "green"),
            ("━" * (_BAR_COLUMNS - full), "dim"),
            (f"  {report.matched:,}", "bold"),
            (f" of {about:,}", "dim"),
        ]
        for count, word in ((report.skipped, "skipped"), (report.failed, "failed")):
            if count:
                parts.append((f"  {count:,} {word}", "yellow"))
        if self._status == "paused":
            parts.append(("  paused", "yellow"))
        text = styled(*parts)
        text.no_wrap, text.overflow = True, "ellipsis"
        return text


def tell_end(screen: Screen, job_id: str, report: BulkReport) -> None:
    """What came of it, and who refused it."""
    mark: Part = ("✗ ", "red") if report.failed else ("✓ ", "green")
    parts: list[Part] = [mark, (f"{report.done:,} {_DONE.get(report.action, 'done')}", "bold")]
    if report.skipped:
        parts.append((f", {report.skipped:,} skipped", "yellow"))
    if report.failed:
        parts.append((f", {report.failed:,} failed", "red"))
    screen.say(*parts, (f"  {job_id}", "dim"))
    for one in report.not_done[:_NAMED_MAX]:
        reason = cropped(one.reason, _REASON_CHARS_MAX)
        screen.say(("– ", "yellow"), (one.workflow_id, "bold"), f"  {reason}", indent=2)
    unnamed = report.skipped + report.failed - min(len(report.not_done), _NAMED_MAX)
    if unnamed > 0:
        screen.say((f"and {unnamed:,} more; --json names the first hundred", "dim"), indent=4)
