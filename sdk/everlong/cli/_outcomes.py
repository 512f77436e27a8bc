"""How an execution ended, read from the last event of its history."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from everlong.cli._documents import as_plain
from everlong.cli._steps import error_text
from everlong.client import ExecutionSummary, HistoryEvent

__all__ = ["Outcome", "outcome_of"]


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came out: a result, or a reason with perhaps a traceback."""

    result: Any = None
    reason: str = ""
    error_type: str | None = None
    traceback: str = ""
    unread: tuple[str, ...] = ()

    def document(self, run: ExecutionSummary) -> dict[str, Any]:
        """For `--json`, behind the facts of the run."""
        shown: dict[str, Any] = as_plain(run)
        if run.status == "completed":
            return shown | {"result": self.result, "unread_signals": self.unread}
        error = {"type": self.error_type, "message": self.reason, "traceback": self.traceback}
        return shown | {"error": error}


def outcome_of(run: ExecutionSummary, history: Sequence[HistoryEvent]) -> Outcome:
    """By its status: a blocked run has its reason in its row, a closed one in its last event."""
    if run.status == "blocked":
        return Outcome(reason=run.reason or "no reason is recorded")
    facts = history[-1].fields if history else {}
    unread = tuple(facts.get("unread", ()))
    match history[-1].kind if history else "":
        case "RunCompleted":
            return Outcome(result=facts.get("result"), unread=unread)
        case "RunFailed":
            return Outcome(
                reason=error_text(facts["error_type"], facts.get("error", "")),
                error_type=facts["error_type"],
                traceback=facts.get("traceback") or "",
                unread=unread,
            )
        case "RunTimedOut":
            return Outcome(reason=f"it did not end within its {facts.get('timeout', '')} timeout")
        case _:
            return Outcome(reason=facts.get("reason", ""), unread=unread)
