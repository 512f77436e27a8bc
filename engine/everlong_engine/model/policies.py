"""Options as values: frozen, validated when made, so nothing later checks again.

`Retry` is what users write; `ActivityOptions` is what the history records beside a scheduled
activity, so that a policy in force survives a restart with other code. Durations are seconds or
`timedelta` at the door and microseconds inside.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Final, Literal, cast, get_args

from msgspec import Struct
from msgspec.structs import replace

from everlong_engine.model.errors import UndecodablePayload
from everlong_engine.model.limits import INSTANT_US_MAX, PRIORITY_MAX, QUEUE_CHARS_MAX

__all__ = [
    "ON_CANCEL",
    "ON_EXHAUSTED",
    "ActivityOptions",
    "IfClosed",
    "IfOpen",
    "OnCancel",
    "OnExhausted",
    "OnParentClose",
    "Retry",
    "is_queue_name",
    "run_policy_of",
    "seconds_us",
]

IfOpen = Literal["use", "fail", "terminate"]
IfClosed = Literal["allow", "fail", "allow_failed"]
OnCancel = Literal["try", "wait", "abandon"]
ON_CANCEL: Final[tuple[str, ...]] = get_args(OnCancel)
OnExhausted = Literal["fail", "pause"]
ON_EXHAUSTED: Final[tuple[str, ...]] = get_args(OnExhausted)
OnParentClose = Literal["terminate", "cancel", "abandon"]

_YEARS_100_S = 100 * 365 * 24 * 3600.0
_DELAY_MAX_S = 60.0
_RUN_POLICY_FIELDS = 6


def seconds_us(value: float | timedelta, name: str) -> int:
    """A duration in microseconds; ValueError names the option when it is no sensible duration."""
    seconds = value.total_seconds() if isinstance(value, timedelta) else value
    if isinstance(seconds, bool) or not isinstance(seconds, int | float):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise TypeError(f"{name} must be seconds (a number) or a timedelta, not {value!r}")
    if not 0 <= seconds <= _YEARS_100_S:
        raise ValueError(f"{name} must be between 0 seconds and 100 years, not {value!r}")
    return round(seconds * 1_000_000)


def _is_collection(value: object) -> bool:
    return isinstance(value, Iterable) and not isinstance(value, str)


@dataclass(frozen=True, slots=True, kw_only=True)
class Retry:
    """How a failed activity is tried again: exponential backoff with a cap and jitter.

    The default never gives up: a failed attempt is tried again after 1, 2, 4 … 60 seconds. What
    people get wrong: `max_attempts` counts attempts, not repetitions, so 1 means "never again".
    A lost attempt (its worker died) counts as well.

        Retry(max_attempts=6, delay=10.0, backoff=1.0)    # five more tries, ten seconds apart

    Args:
        max_attempts: at most so many attempts; None for no limit.
        delay: seconds (or timedelta) before the second attempt.
        backoff: each further delay is the last one times this; at least 1.
        delay_max: seconds (or timedelta) that no delay exceeds before jitter; 60 unless given,
            or `delay` where that is longer.
        jitter: up to this share is added to each delay, 0 to 1, so that many do not return at once.
            It is only ever added: a delay is never shorter than the policy says.
        non_retryable: exception classes or qualified names that end the attempts at once.
        on_exhausted: what becomes of an activity without a further attempt. "fail" raises its
            failure in the workflow. "pause" tells the workflow nothing and pauses the execution,
            visibly, until somebody has mended the cause: `resume` gives a fresh set of attempts.

    Raises:
        ValueError, TypeError: an option out of its range, named.
    """

    max_attempts: int | None = None
    delay: float | timedelta = 1.0
    backoff: float = 2.0
    delay_max: float | timedelta | None = None
    jitter: float = 0.1
    non_retryable: tuple[type[BaseException] | str, ...] = ()
    on_exhausted: OnExhausted = "fail"

    def __post_init__(self) -> None:
        if self.max_attempts is not None and self.max_attempts < 1:
            raise ValueError(f"Retry(max_attempts={self.max_attempts}): give 1 or more, or None")
        if not 1 <= self.backoff <= 1000:
            raise ValueError(f"Retry(backoff={self.backoff}): give a factor from 1 to 1000")
        if not 0 <= self.jitter <= 1:
            raise ValueError(f"Retry(jitter={self.jitter}): give a share from 0 to 1")
        delay_us = seconds_us(self.delay, "Retry(delay)")
        if self.delay_max is None:
            longest = self.delay if delay_us > _DELAY_MAX_S * 1e6 else _DELAY_MAX_S
            object.__setattr__(self, "delay_max", longest)
        elif seconds_us(self.delay_max, "Retry(delay_max)") < delay_us:
            raise ValueError(
                f"Retry(delay_max={self.delay_max}) is shorter than delay={self.delay}: no delay "
                "would be as long as you say. Give a longer one, or none at all"
            )
        if not _is_collection(self.non_retryable):
            raise TypeError("Retry(non_retryable): give a tuple of exception classes or names")
        object.__setattr__(self, "non_retryable", tuple(self.non_retryable))
        if self.on_exhausted not in ON_EXHAUSTED:
            raise ValueError(f'Retry(on_exhausted={self.on_exhausted!r}): give "fail" or "pause"')

    @property
    def options(self) -> "ActivityOptions":
        """As a history records it."""
        return ActivityOptions(
            max_attempts=self.max_attempts,
            delay_us=seconds_us(self.delay, "delay"),
            backoff=float(self.backoff),
            delay_max_us=self.delay_max_us,
            jitter=float(self.jitter),
            non_retryable=self.names,
            on_exhausted=self.on_exhausted,
        )

    @property
    def delay_max_us(self) -> int:
        """What no delay exceeds, in microseconds."""
        assert self.delay_max is not None, "chosen when the policy was made"
        return seconds_us(self.delay_max, "delay_max")

    @property
    def names(self) -> tuple[str, ...]:
        """The classes of `non_retryable` as the names that a history can record."""
        return tuple(
            c if isinstance(c, str) else f"{c.__module__}.{c.__qualname__}"
            for c in self.non_retryable
        )


class ActivityOptions(Struct, frozen=True):
    """What was in force when an activity was scheduled. Recorded with it; microseconds."""

    max_attempts: int | None = None
    delay_us: int = 1_000_000
    backoff: float = 2.0
    delay_max_us: int = 60_000_000
    jitter: float = 0.1
    non_retryable: tuple[str, ...] = ()
    start_to_close_us: int | None = None
    schedule_to_close_us: int | None = None
    schedule_to_start_us: int | None = None
    heartbeat_us: int | None = None
    at_most_once: bool = False
    on_cancel: str = "try"
    """What its cancellation means: ask and go on, ask and wait for its end, or leave it alone."""
    on_exhausted: str = "fail"
    """What comes behind its last attempt: its failure, or a pause of its execution."""
    queue: str = ""
    """The task queue that it goes through; "" for that of its workflow."""
    key: str = ""
    """Whose call it is, among whom the queue is fair."""
    priority: int = 0
    """The larger, the sooner."""

    def to_wire(self) -> list[Any] | None:
        """None for the defaults of version 1: most activities record nothing here. What came
        later is written only where it is not the default, so that earlier versions read the rest.
        """
        if self is _DEFAULT or self == _DEFAULT:
            return None
        wire = [getattr(self, name) for name in self.__struct_fields__]
        for name in reversed(_LATER):
            if getattr(self, name) != getattr(_DEFAULT, name):
                break
            wire.pop()
        return wire

    @classmethod
    def from_wire(cls, wire: list[Any] | None) -> "ActivityOptions":
        """Read what `to_wire` wrote; fields that a later version has may be missing.

        Raises:
            UndecodablePayload: no option of ours says such a thing.
        """
        if wire is None:
            return _DEFAULT
        values = list(wire)
        if len(values) > 5:
            names: Any = values[5]
            values[5] = tuple(names) if isinstance(names, list | tuple) else None  # pyright: ignore[reportUnknownArgumentType]
        if len(values) > len(_SENSIBLE):
            raise UndecodablePayload(reason=f"there are {len(values)} options, more than there are")
        for (name, is_sensible), value in zip(_SENSIBLE.items(), values, strict=False):
            if not is_sensible(value):
                raise UndecodablePayload(reason=f"the option {name} holds {value!r:.80}")
        return cls(*values)

    @property
    def run_policy(self) -> tuple[Any, ...]:
        """The part that a run's start records, for the execution as a whole."""
        return (
            self.max_attempts,
            self.delay_us,
            self.backoff,
            self.delay_max_us,
            self.jitter,
            self.non_retryable,
        )

    def changed(self, changes: dict[str, Any]) -> "ActivityOptions":
        """With some fields replaced; the defaults stay one object, which is recognised at once."""
        made = replace(self, **changes)
        return _DEFAULT if made == _DEFAULT else made


_DEFAULT = ActivityOptions()
_LATER: Final = ("on_exhausted", "queue", "key", "priority")
"""The last fields, which came behind version 1."""


def run_policy_of(recorded: Sequence[Any]) -> ActivityOptions:
    """Undo `ActivityOptions.run_policy`. Raises UndecodablePayload."""
    if not isinstance(recorded, list | tuple) or len(recorded) != _RUN_POLICY_FIELDS:  # pyright: ignore[reportUnnecessaryIsInstance]
        raise UndecodablePayload(reason=f"{recorded!r:.80} is no policy for retries")
    return ActivityOptions.from_wire(list(recorded))


def is_queue_name(name: object) -> bool:
    """Whether a task queue may be called so, on a command line and in a store."""
    return isinstance(name, str) and 0 < len(name) <= QUEUE_CHARS_MAX and name.isprintable()


def _is_duration(value: object) -> bool:
    return type(value) is int and 0 <= value <= INSTANT_US_MAX


def _is_duration_or_none(value: object) -> bool:
    return value is None or _is_duration(value)


def _is_number(value: object, least: float, most: float) -> bool:
    return isinstance(value, int | float) and least <= value <= most


_SENSIBLE: Mapping[str, Callable[[object], bool]] = {
    "max_attempts": lambda it: it is None or _is_number(it, 1, float("inf")),
    "delay_us": _is_duration,
    "backoff": lambda it: _is_number(it, 1, 1000),
    "delay_max_us": _is_duration,
    "jitter": lambda it: _is_number(it, 0, 1),
    "non_retryable": lambda it: (
        type(it) is tuple and all(type(one) is str for one in cast("tuple[object, ...]", it))
    ),
    "start_to_close_us": _is_duration_or_none,
    "schedule_to_close_us": _is_duration_or_none,
    "schedule_to_start_us": _is_duration_or_none,
    "heartbeat_us": _is_duration_or_none,
    "at_most_once": lambda it: type(it) is bool,
    "on_cancel": lambda it: it in ON_CANCEL,
    "on_exhausted": lambda it: it in ON_EXHAUSTED,
    "queue": lambda it: it == "" or is_queue_name(it),
    "key": lambda it: it == "" or is_queue_name(it),
    "priority": lambda it: type(it) is int and abs(it) <= PRIORITY_MAX,
}
"""What may stand in a history, in the order of the fields."""
