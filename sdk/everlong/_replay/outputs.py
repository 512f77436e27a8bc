"""Output channels of a run: what it publishes, numbered through all runs of its execution.

An item is a decision like any other, so replay makes it again and nothing is published twice. The
numbers go on where the earlier runs stopped: a run starts with them, and hands them to the next.
"""

from collections import Counter
from collections.abc import Sequence
from typing import Any, Protocol

from everlong._replay.ledger import Ledger
from everlong.exceptions import WorkflowFault
from everlong_engine import ItemPublished, ItemRow, Numbers, Trim, limits

__all__ = ["Codec", "Outputs"]


class Codec(Protocol):
    """A declared type: values to bytes and back."""

    def encode(self, value: object) -> bytes: ...
    def decode(self, data: bytes) -> Any: ...


class Outputs:
    """The output channels of one run."""

    __slots__ = ("_keep", "_next", "_types")

    def __init__(self, published: Numbers = ()) -> None:
        self._next = dict(published)
        self._types: dict[str, Codec] = {}
        self._keep: dict[str, int | None] = {}

    def publish(
        self,
        run: Ledger,
        channel: str,
        codec: Codec,
        value: object,
        where: str,
        *,
        keep: int | None = limits.OUTPUT_ITEMS_KEPT,
    ) -> int:
        """Decide to publish a value; the item's number."""
        run.require_live()
        payload = codec.encode(value)
        number = self._next.get(channel, 0)
        if number == 0 and len(self._next) >= limits.OUTPUT_CHANNELS_MAX:
            run.stop_with(
                WorkflowFault(
                    f"an execution has at most {limits.OUTPUT_CHANNELS_MAX} output channels; "
                    f"{channel!r:.100} would be one more. Put what tells items apart into them"
                )
            )
        most = limits.PUBLISHED_MAX
        if len(run.made) >= most and sum(type(one) is ItemPublished for one in run.made) >= most:
            run.stop_with(
                WorkflowFault(
                    f"more than {most} items were published without waiting for "
                    "anything in between. Await an activity or a sleep now and then"
                )
            )
        self._types[channel] = codec
        self._keep[channel] = keep
        self._next[channel] = number + 1
        run.made.append(ItemPublished(channel, number, payload, where))
        return number

    def following(self, channel: str) -> int:
        """The number of its next item."""
        return self._next.get(channel, 0)

    def go_on(self, published: Numbers) -> None:
        """What a reset run repeats ends here: behind it the execution has published more."""
        self._next.update(published)

    def trims(self, items: Sequence[ItemRow]) -> tuple[Trim, ...]:
        """What goes when these items come. In portions: a channel that is full costs a delete now
        and then, and not with each item. No decision, so that `keep` may be changed at any time."""
        trims: list[Trim] = []
        for channel, count in Counter(one.channel for one in items).items():
            keep = self._keep.get(channel)
            following = self._next[channel]
            if keep is None or following <= keep:
                continue
            portion = max(1, min(keep // 10, limits.OUTPUT_TRIM_ITEMS))
            if following // portion != (following - count) // portion:
                trims.append(Trim(channel, following - keep, limits.OUTPUT_TRIM_MAX + count))
        return tuple(trims)

    def canonical(self, channel: str, recorded: bytes) -> bytes:
        """A recorded payload as today's type writes it."""
        codec = self._types.get(channel)
        return recorded if codec is None else codec.encode(codec.decode(recorded))

    @property
    def numbers(self) -> Numbers:
        """How far each channel has come, for the run that begins anew."""
        return tuple(self._next.items())
