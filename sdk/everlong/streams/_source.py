"""What a stream reads from: the protocol that every source follows."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Generic, TypeAlias, TypeVar, cast

from pydantic import StrictBytes, StrictInt, StrictStr, TypeAdapter

from everlong._hints import adapter_for
from everlong.exceptions import InvalidArguments, StreamRewound

__all__ = ["Cursor", "Position", "Reader", "Record", "Source", "number_in"]

T = TypeVar("T")

Position: TypeAlias = int | str
"""Where a record lies in its partition: an offset, a sequence number, an id of the broker's."""

_SCANNED_AT_ONCE: Final = 1_000
_SCANNED_BYTES: Final = 1_000_000
_SCAN_WAIT_S: Final = 1.0
"""Without a message, which means that there is none."""
_Positions: TypeAlias = dict[StrictStr, StrictInt | StrictStr]
_WIRE: Final = TypeAdapter[tuple[Any, ...]](
    tuple[StrictStr, _Positions] | tuple[StrictStr, _Positions, StrictBytes]
)


@dataclass(slots=True)
class Record:
    """One message as it lies at its source, undecoded."""

    partition: str
    position: Position
    value: bytes
    key: bytes | None = None
    at_us: int | None = None
    """When it was written, in microseconds since 1970, if the source knows."""
    headers: Mapping[str, bytes] = field(default_factory=dict[str, bytes])


@dataclass(frozen=True, slots=True)
class Cursor:
    """How far a flow has read: everything up to these positions, and nothing behind them."""

    identity: str
    """Of what was read from, made anew with it: a topic that is deleted and created again under its
    name has another one."""
    after: Mapping[str, Position]
    """The last position of each partition that was read."""
    taken: bytes | None = None
    """Of a source that forgets: marks of what was read last, by which it is known if it comes
    again. A flow that has them cannot be rewound. None for all others."""

    def to_wire(self) -> list[Any]:
        more = [] if self.taken is None else [self.taken]
        return [self.identity, dict(self.after), *more]

    @classmethod
    def from_wire(cls, wire: Any) -> "Cursor":
        """Raises ValueError: it is none."""
        return cls(*_WIRE.validate_python(wire))


class Reader(ABC):
    """A source that is being read, by one flow. `acknowledge` may come while `fetch` waits."""

    identity: str

    @abstractmethod
    async def fetch(
        self, max_messages: int, max_bytes: int, wait_s: float | None
    ) -> Sequence[Record]:
        """What is there, in the order of each partition; nothing that was read before.

        Args:
            max_messages: at most so many.
            max_bytes: stop soon after so many; one record at least is returned.
            wait_s: how long to wait for the first one; None waits for as long as it takes. With
                nothing within that time: an empty sequence.
        """

    def cursor_behind(self, before: Cursor | None, records: Sequence[Record]) -> Cursor:
        """Where the flow stands with these records, which follow what lay before.

        Args:
            before: where it stood, as opened or as this has said last.
            records: of one batch, at least one, as they were fetched.
        """
        read: Mapping[str, Position] = {} if before is None else before.after
        positions = {one.partition: one.position for one in records}
        return Cursor(self.identity, {**read, **positions})

    async def acknowledge(self, cursor: Cursor) -> None:  # noqa: B027 - nothing is to be told
        """Everything up to here is stored: tell the broker, if it wants to know.

        The cursor in the journal is the truth, and this its mirror: it may be lost or repeated.
        """

    async def close(self) -> None:  # noqa: B027 - there is nothing to let go of
        """Let go of connections. What was fetched and not acknowledged is read again."""


class Source(ABC, Generic[T]):
    """Something that can be read for ever, from any position that was read before.

    To write one, give `open`, which returns a `Reader`. What people get wrong: positions must mean
    the same record for ever, since they are all that is kept. Where a broker gives them anew, say
    so by another `identity`; a cursor with an older one is refused with `StreamRewound`.

    Args:
        value: the type of its messages' values: bytes as they are, str as UTF-8, and everything
            else from JSON.
    """

    forgets = False
    """Whether what is acknowledged is gone at the broker: it must be on disk by then, and nothing
    can be read a second time, be it to rewind a flow or to count what it has not read."""

    keyed = True
    """Whether its messages may have keys."""
    partitions_every_s = 30.0
    """How often a flow of a family asks whether there are new ones."""

    def __init__(self, value: Any = bytes) -> None:
        self.value = value
        self._adapter = (
            None
            if value in (bytes, str)
            else adapter_for(value, f"a message of {type(self).__name__}")
        )

    @abstractmethod
    async def open(self, after: Cursor | None, partitions: Sequence[str] | None) -> Reader:
        """Read what lies behind a cursor, or all from the beginning.

        Args:
            after: None at the very first time.
            partitions: only these; None for all.

        Raises:
            StreamRewound: what the cursor names is not there any more.
        """

    async def partitions(self) -> Sequence[str]:
        """Which there are by now, for flows that share them out (`Stream.spread`). A partition must
        keep its name for ever, and no message may come to lie in another.

        Raises:
            InvalidArguments: it is one, and cannot be shared out.
        """
        raise InvalidArguments(
            f"{self!r} has no partitions that several flows could share: one flow reads it. What "
            "several flows are to read goes into a topic of several partitions"
        )

    @property
    def is_divided(self) -> bool:
        """Not for flows: whether it tells its partitions."""
        own, base = cast("tuple[Any, Any]", (type(self), Source))
        return bool(own.partitions is not base.partitions)

    async def before(self, at_us: int, partitions: Sequence[str] | None) -> Cursor:
        """Where a moment lies: everything behind this cursor was written then or later.

        Here by reading from the beginning, which any source can whose records say when they were
        written. One that can look it up should.

        Args:
            at_us: the moment, in microseconds since 1970.
            partitions: only these; None for all. One that is not in the cursor is read from its
                beginning.

        Raises:
            InvalidArguments: its records do not say when they were written; or it forgets them.
        """
        if self.forgets:
            raise InvalidArguments(
                f"{self!r} forgets what was read, so there is no moment in it to go back to. Have "
                "it published again"
            )
        reader = await self.open(None, partitions)
        after: dict[str, Position] = {}
        reached: set[str] = set()
        try:
            while found := await reader.fetch(_SCANNED_AT_ONCE, _SCANNED_BYTES, _SCAN_WAIT_S):
                for one in found:
                    if one.at_us is None:
                        raise timeless(self)
                    if one.at_us >= at_us:
                        reached.add(one.partition)
                    elif one.partition not in reached:
                        after[one.partition] = one.position
            return Cursor(reader.identity, after)
        finally:
            await reader.close()

    def is_behind(self, position: Position, other: Position) -> bool:
        """Whether a record lies behind another of its partition. Here by number, or where
        positions are texts, by their order."""
        if isinstance(position, int) and isinstance(other, int):
            return position > other
        return str(position) > str(other)

    @property
    def is_raw(self) -> bool:
        """Not for flows: whether a value is what was written, whatever that is."""
        own: Any = type(self)
        plain: Any = Source
        return self.value is bytes and own.decode is plain.decode

    def decode(self, data: bytes) -> T:
        """A value by the declared type. Raises ValueError."""
        if self._adapter is not None:
            decoded: T = self._adapter.validate_json(data)
            return decoded
        return data if self.value is bytes else data.decode()  # type: ignore[return-value]


def timeless(source: Source[Any]) -> InvalidArguments:
    """What is raised where a moment is asked for."""
    return InvalidArguments(
        f"{source!r} does not say when its messages were written, so nobody can tell where a "
        "moment lies in it. Rewind to positions: rewind({0: 41})"
    )


def number_in(position: Position, what: object) -> int:
    """A position where they are numbers. Raises InvalidArguments: it is none."""
    try:
        return int(position)
    except ValueError:
        raise InvalidArguments(
            f"the positions of {what!r} are numbers, and {position!r} is none: rewind the flow to "
            "where it is to go on"
        ) from None


def require_same(identity: str, cursor: Cursor | None, what: str) -> None:
    """Raises StreamRewound: a cursor of something else that had the same name."""
    if cursor is not None and cursor.identity != identity:
        raise StreamRewound(
            f"{what} is not what was read so far ({cursor.identity} then, {identity} now): it was "
            "made anew, and its positions mean other messages. Rewind the flow to where it is to "
            "go on, or begin a new one"
        )
