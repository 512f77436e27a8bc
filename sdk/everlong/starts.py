"""Several starts that are one: debounced, or deduplicated, by a key that is not the workflow id."""

from dataclasses import dataclass, field
from datetime import timedelta

from everlong.queues import checked_key
from everlong_engine import seconds_us

__all__ = ["Debounce", "Dedup"]


@dataclass(frozen=True, slots=True)
class Debounce:
    """Starts that come one upon the other become one execution, for `client.start(debounce=…)`.

    It begins once no other start with the key has come for a while, with what the last one said.
    Whoever has started it has a handle to it, under a workflow id that is made up: which start
    makes an execution, and which one joins it, is known only to the store. What comes once a worker
    has taken it up makes the next one, so no start is lost; both may be under way at once, unless
    they share a place in a pool with `key_concurrency=1`.

    What people get wrong: without `at_most` it never begins while starts keep coming.

        handle = await client.start(reindex, doc, debounce=Debounce(5, key=doc, at_most=60))

    Args:
        span: how long it waits for the next start: seconds, or a timedelta.
        key: which starts of the workflow belong together; all of them unless given.
        at_most: how long the first of them waits at most.

    Raises:
        ValueError, TypeError: no duration, or no key.
    """

    span: float | timedelta
    key: str | int = field(default="", kw_only=True)
    at_most: float | timedelta | None = field(default=None, kw_only=True)

    def __post_init__(self) -> None:
        _require_time(self.span, "Debounce(span)")
        if self.key != "":
            checked_key("Debounce", self.key)
        if self.at_most is not None and self.most_us < self.span_us:
            raise ValueError(
                f"Debounce(at_most={self.at_most!r}) is shorter than the span {self.span!r} itself"
            )

    @property
    def span_us(self) -> int:
        """Not for flows: in microseconds."""
        return seconds_us(self.span, "Debounce(span)")

    @property
    def most_us(self) -> int:
        """Not for flows: likewise, where there is one."""
        return seconds_us(self.at_most or 0, "Debounce(at_most)")


@dataclass(frozen=True, slots=True)
class Dedup:
    """A start whose key was seen lately is the same one, for `client.start(dedup=…)`.

    Within the window every start of the workflow with the key has a handle to the execution of the
    first one, also when that has ended by then; behind it the next one begins anew. Unlike a
    workflow id it holds beyond the end of the execution, and it is no name.

    What people get wrong: the window is counted from the start that was first, and does not move;
    and an execution that went with its retention is not found any more.

        handle = await client.start(charge, order, dedup=Dedup(order.payment, within=24 * 3600))

    Args:
        key: which starts of the workflow are the same.
        within: for how long: seconds, or a timedelta.

    Raises:
        ValueError, TypeError: no duration, or no key.
    """

    key: str | int
    within: float | timedelta = field(kw_only=True)

    def __post_init__(self) -> None:
        checked_key("Dedup", self.key)
        _require_time(self.within, "Dedup(within)")

    @property
    def span_us(self) -> int:
        """Not for flows: in microseconds."""
        return seconds_us(self.within, "Dedup(within)")


def _require_time(value: float | timedelta, name: str) -> None:
    if seconds_us(value, name) == 0:
        raise ValueError(f"{name} must be more than 0 seconds")
