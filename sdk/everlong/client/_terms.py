"""What a start says of itself beside its arguments: under which id or key, and what then."""

from dataclasses import dataclass
from typing import Any, Final

from msgspec.structs import replace

from everlong.starts import Debounce, Dedup
from everlong_engine import (
    Debounced,
    Engine,
    IfClosed,
    IfOpen,
    KeyKind,
    RunStarted,
    StartKey,
)

__all__ = ["Terms"]

_IF_OPEN: Final = ("use", "fail", "terminate")
_IF_CLOSED: Final = ("allow", "fail", "allow_failed")


@dataclass(frozen=True, slots=True)
class Terms:
    """Checked when it is made. Raises ValueError or TypeError."""

    if_open: IfOpen = "use"
    if_closed: IfClosed = "allow"
    request_id: str | None = None
    debounce: Debounce | None = None
    dedup: Dedup | None = None

    def __post_init__(self) -> None:
        if self.if_open not in _IF_OPEN:
            raise ValueError(f"if_open={self.if_open!r}: choose one of {', '.join(_IF_OPEN)}")
        if self.if_closed not in _IF_CLOSED:
            raise ValueError(f"if_closed={self.if_closed!r}: choose one of {', '.join(_IF_CLOSED)}")
        if not isinstance(self.debounce, Debounce | None):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise TypeError(f"debounce={self.debounce!r}: give a Debounce, such as Debounce(5)")
        if not isinstance(self.dedup, Dedup | None):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise TypeError(
                f"dedup={self.dedup!r}: give a Dedup, such as Dedup('key', within=3600)"
            )
        if self.debounce is not None and self.dedup is not None:
            raise ValueError("give debounce or dedup, not both")

    @property
    def has_key(self) -> bool:
        return self.debounce is not None or self.dedup is not None

    def require_sense(self, others: dict[str, Any]) -> None:
        """Refuse what a start with a key cannot say. `others` are options, None where not given.

        Raises:
            ValueError: it names what to do instead.
        """
        alone: tuple[str, ...] = ("signal", "update")
        if self.debounce is not None:
            policies = {"if_open": self.if_open != "use", "if_closed": self.if_closed != "allow"}
            others |= {name: given or None for name, given in policies.items()}
            alone = tuple(others)
        given = [name for name in alone if self.has_key and others.get(name) is not None]
        if given:
            option = "dedup" if self.debounce is None else "debounce"
            raise ValueError(f"{option} does not go with {' and '.join(given)}: {_WHY[given[0]]}")

    def put_off(self, started: RunStarted, now_us: int) -> RunStarted:
        """A debounced start as its sender sees it: the store says what it becomes."""
        if self.debounce is None:
            return started
        debounced = Debounced(str(self.debounce.key), now_us, None, 1)
        return replace(started, debounced=debounced)

    def begins_us(self, now_us: int) -> int | None:
        """When a debounced start would begin if it were alone."""
        return None if self.debounce is None else now_us + self.debounce.span_us

    def start_key(self, engine: Engine) -> StartKey | None:
        """Give it to the group commit at once: see `Engine.sent`."""
        now_us = engine.clock.now_us()
        if self.dedup is not None:
            return StartKey(
                kind=KeyKind.DEDUP,
                key=str(self.dedup.key),
                span_us=self.dedup.span_us,
                now_us=now_us,
            )
        if self.debounce is None:
            return None
        return StartKey(
            kind=KeyKind.DEBOUNCE,
            key=str(self.debounce.key),
            span_us=self.debounce.span_us,
            most_us=None if self.debounce.at_most is None else self.debounce.most_us,
            now_us=now_us,
            request_id=self.request_id,
            sent=engine.sent() if self.request_id is None else None,
        )


_ID: Final = "each execution that such starts make has an id of its own; give it tags to find it by"
_TIME: Final = "when it begins is told by the span of the debounce"
_BESIDE: Final = "it may come to an execution that another start has made; use the handle"
_WHY: Final = {
    "id": _ID,
    "if_open": _ID,
    "if_closed": _ID,
    "start_delay": _TIME,
    "start_at": _TIME,
    "signal": _BESIDE,
    "update": _BESIDE,
    "from_savepoint": "a flow goes on from there under its id",
}
