"""What a bulk job is told, and what it tells: plain values that it carries from page to page.

The order is recorded with the job, and so is each page: what is added here later needs a default.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final, Literal, TypeAlias, get_args

from everlong._texts import storable
from everlong.channels import Signal, sent
from everlong.client._pauses import checked_reason
from everlong.exceptions import CannotReset, InvalidArguments
from everlong_engine import (
    Among,
    And,
    Field,
    Filter,
    NoSuchPoint,
    check_point,
    parse_filter,
)

__all__ = [
    "ACTS_ON",
    "LISTED_MAX",
    "BulkAction",
    "BulkOrder",
    "BulkPreview",
    "BulkReport",
    "NotDone",
    "checked_order",
    "meant",
    "memo_of",
    "report_of",
]

BulkAction: TypeAlias = Literal[
    "cancel", "terminate", "signal", "pause", "resume", "reset", "retry"
]

_OPEN: Final = ("running", "blocked", "paused")
_FAILED: Final = ("failed", "timed_out")
ACTS_ON: Final[Mapping[BulkAction, tuple[str, ...]]] = {
    "cancel": _OPEN,
    "terminate": _OPEN,
    "signal": _OPEN,
    "pause": ("running", "blocked"),
    "resume": ("paused", "blocked"),
    "reset": (*_OPEN, "completed", *_FAILED, "cancelled", "terminated"),
    "retry": (*_FAILED, "blocked"),
}
"""In which states an execution can be what is done to it; others are not looked at."""

LISTED_MAX: Final = 100
"""Of those that could not be acted upon, so many are named."""
_AT_ONCE_MAX: Final = 100
_RATE_MAX: Final = 10_000.0


@dataclass(frozen=True, slots=True, kw_only=True)
class BulkOrder:
    """What is to be done, and to whom. Stored as the job's argument."""

    action: BulkAction
    filter: str | None
    """None: everything that the action can be done to."""
    reason: str = ""
    by: str = ""
    signal: str = ""
    payload: bytes = b""
    to: int | str = ""
    rate: float | None = None

    @property
    def at_once(self) -> int:
        """How many belong to one page."""
        return _AT_ONCE_MAX if self.rate is None else min(_AT_ONCE_MAX, max(1, int(self.rate)))

    @property
    def begins_runs(self) -> bool:
        return self.action in ("reset", "retry")


@dataclass(frozen=True, slots=True, kw_only=True)
class NotDone:
    """An execution that a bulk job could not act upon, and why."""

    workflow_id: str
    run_id: str
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class BulkReport:
    """How far a bulk job is; and how it has ended, as its result."""

    action: BulkAction
    about: int = 0
    """How many runs its filter meant when it began. Others may come or go meanwhile."""
    done: int = 0
    """Executions that it has acted upon, each of them once."""
    skipped: int = 0
    """Those that refused it: ended by now, no such point to reset to, their id taken by another."""
    failed: int = 0
    """Those that it could not act upon, because they are damaged, or encrypted for others."""
    not_done: tuple[NotDone, ...] = ()
    """The first hundred of the skipped and failed, with reasons."""

    @property
    def matched(self) -> int:
        """How many executions it has met."""
        return self.done + self.skipped + self.failed

    def plus(
        self, done: int, skipped: Sequence[NotDone], failed: Sequence[NotDone]
    ) -> "BulkReport":
        """With one page more."""
        named = (*self.not_done, *skipped, *failed)[:LISTED_MAX]
        return replace(
            self,
            done=self.done + done,
            skipped=self.skipped + len(skipped),
            failed=self.failed + len(failed),
            not_done=named,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class BulkPreview:
    """What a bulk job would act upon, if it began now."""

    action: BulkAction
    matched: int
    first: tuple[str, ...] = field(default=())
    """The first few workflow ids, the newest run first."""


def checked_order(
    action: Any,
    filter: Any,
    everything: bool,
    reason: str,
    by: str,
    signal: Signal[Any] | str | None,
    value: Any,
    to: Any,
    rate: Any,
) -> BulkOrder:
    """Everything that can be said against an order is said here, before there is a job.

    Raises:
        InvalidArguments, InvalidFilter, CannotReset: it cannot be meant so.
    """
    _check_action(action)
    _check_filter(filter, everything)
    checked_reason(reason, by)
    if (action == "signal") is (signal is None):
        what = "name the signal: signal=" if signal is None else "signal= is for that action:"
        raise InvalidArguments(f'bulk("{action}"): {what} "go", say')
    if signal is None and value is not None:
        raise InvalidArguments(f'bulk("{action}"): value= is that of a signal')
    name, payload = ("", b"") if signal is None else sent(signal, value)
    return BulkOrder(
        action=action,
        filter=filter,
        reason=reason,
        by=by,
        signal=storable(name, "signal"),
        payload=payload,
        to=_checked_point(action, to),
        rate=_checked_rate(rate),
    )


def _check_action(action: object) -> None:
    if not isinstance(action, str) or action not in ACTS_ON:
        raise InvalidArguments(
            f"action={action!r:.100}: choose one of {', '.join(get_args(BulkAction))}"
        )


def _check_filter(filter: Any, everything: bool) -> None:
    if filter is not None:
        if type(filter) is not str:
            raise InvalidArguments(f"filter={filter!r:.100}: a filter is a text")
        parse_filter(storable(filter, "filter"))
    if (filter is None) is not everything:
        raise InvalidArguments(
            "everything=True stands in the place of a filter: give one of them"
            if everything
            else "say whom you mean: a filter, or everything=True"
        )


def _checked_point(action: BulkAction, to: Any) -> int | str:
    if action not in ("reset", "retry"):
        if to is not None:
            raise InvalidArguments(f'bulk("{action}"): to= is for "reset" and "retry"')
        return ""
    if to is None:
        if action == "reset":
            raise InvalidArguments('bulk("reset") needs the point: to="start", say')
        return "retry"
    if isinstance(to, bool) or not isinstance(to, int | str):
        raise CannotReset(f"to={to!r:.100}: give the number of an event, or the name of a point")
    try:
        check_point(to)
    except NoSuchPoint as error:
        raise CannotReset(str(error)) from error
    return storable(to, "to") if isinstance(to, str) else to


def _checked_rate(rate: Any) -> float | None:
    if rate is None:
        return None
    fits = isinstance(rate, int | float) and not isinstance(rate, bool)
    if not (fits and math.isfinite(rate) and 0 < rate <= _RATE_MAX):
        raise InvalidArguments(
            f"rate={rate!r:.100}: how many executions a second, more than 0, at most {_RATE_MAX:g}"
        )
    return float(rate)


def meant(order: BulkOrder) -> Filter:
    """The filter, and that the action can be done. Raises InvalidFilter."""
    can_be = Among(Field("status"), ACTS_ON[order.action])
    return can_be if order.filter is None else And((parse_filter(order.filter), can_be))


_COUNTS: Final = ("about", "done", "skipped", "failed")


def memo_of(report: BulkReport) -> dict[str, str | int]:
    """Progress, for people and programs that look at the execution."""
    counts: dict[str, str | int] = {name: getattr(report, name) for name in _COUNTS}
    return {"action": report.action, **counts}


def report_of(memo: Any) -> BulkReport:
    return BulkReport(action=memo["action"], **{name: memo[name] for name in _COUNTS})
