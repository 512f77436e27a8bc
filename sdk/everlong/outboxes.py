"""`Outbox`: messages for a broker that are committed together with what they tell of.

Declared once at module level, with the sink that publishes them. What is put into it lies in the
store, in the very commit of the workflow or of the transactional activity, until a worker's relay
has published it. Here are the outbox, and what a sink is; sinks of brokers are with their sources,
in `everlong.streams`.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final, Generic, NamedTuple, TypeVar, overload

from pydantic import TypeAdapter, ValidationError
from pydantic_core import PydanticSerializationError

from everlong import registry
from everlong._context import calling_frame, current_run, source_line
from everlong._definitions import OWN
from everlong._hints import adapter_for, describe
from everlong._texts import fault_of_name, shown, storable
from everlong._values import within_limit
from everlong.exceptions import DefinitionError, EverlongError, InvalidArguments
from everlong_engine import pack, unpack

__all__ = [
    "Draft",
    "Outbox",
    "OutboxMessage",
    "Sink",
    "Writer",
    "draft_of",
    "outbox_in",
    "parts_of",
]

T = TypeVar("T")

_CHANNEL: Final = f"{OWN}outbox."
_HEADERS_MAX: Final = 100


@dataclass(frozen=True, slots=True, kw_only=True)
class OutboxMessage:
    """A message on its way to a broker, as a sink gets it."""

    id: str
    """The same each time it is sent, and no other message has it."""
    value: bytes
    key: bytes | None
    headers: Mapping[str, str]
    at: datetime
    """When it was committed."""


class Writer(ABC):
    """An open connection of a sink."""

    @abstractmethod
    async def write(self, messages: Sequence[OutboxMessage]) -> Mapping[str, str]:
        """Publish these in their order, and return once the broker has acknowledged them.

        What it raises means that nothing is known of any of them: all are written again, by a new
        writer, behind a pause. Messages that the broker will never take, such as those that are
        too large for it, are no reason to raise.

        Args:
            messages: at least one.

        Returns:
            those that the broker refuses for good, by id, each with the reason. They are set aside.
        """

    async def close(self) -> None:  # noqa: B027 - there is nothing to let go of
        """Let go of connections."""


class Sink(ABC):
    """Where the messages of an outbox are published.

    To write one, give `open`, which returns a `Writer`. What people get wrong: a message comes
    again whenever its acknowledgement was lost, so its `id` must go along where readers see it;
    and `write` must not return before the broker has stored what it was given.
    """

    @abstractmethod
    async def open(self) -> Writer:
        """Connect. What it raises is shown as the fault of the outbox, and tried again."""


@dataclass(frozen=True, slots=True)
class Draft:
    """A message that an activity has put into its transaction."""

    outbox: str
    value: bytes
    key: bytes | None
    headers: Mapping[str, str]

    @property
    def payload(self) -> bytes:
        """Not for flows: as it is stored."""
        return pack([self.value, self.key, dict(self.headers)])


class _Parts(NamedTuple):
    value: bytes
    key: bytes | None
    headers: Mapping[str, str]


class Outbox(Generic[T]):
    """Messages for a broker, each stored in the very commit of what it tells of.

        paid = Outbox("paid", KafkaSink("localhost:9092", topic="paid"), Payment)

        @activity(transactional=True)
        async def book(tx: Transaction, payment: Payment) -> None:
            tx.execute("insert into payments (id) values (:id)", {"id": payment.id})
            tx.publish(paid, payment, key=payment.customer)     # with the row, or not at all

        await paid.publish(payment)                             # in the workflow

    A relay in one worker at a time publishes what was committed, oldest first, until the broker has
    acknowledged it: at least once, each message under one id. What people get wrong: publishing
    waits for no broker, so a broker that is away shows in `everlong outbox list`, and nowhere else.

    Args:
        name: of the outbox in the store: what was stored under it is published by whoever declares
            this name.
        sink: where it goes.
        value: the type of its messages' values: bytes go as they are, str as UTF-8, and everything
            else as JSON; each value by its own type unless one is given.

    Raises:
        DefinitionError: another file declares an outbox of this name, or it is none (see `Signal`),
            or the type is unsupported.
    """

    @overload
    def __init__(self, name: str, sink: Sink, value: type[T]) -> None: ...
    @overload
    def __init__(self: "Outbox[Any]", name: str, sink: Sink, value: Any = Any) -> None: ...
    def __init__(self, name: str, sink: Sink, value: Any = Any) -> None:
        fault = fault_of_name(name)
        if fault is not None:
            raise DefinitionError(
                f'an Outbox needs a name: Outbox("paid", sink); {shown(name)} {fault}'
            )
        if not isinstance(sink, Sink):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise DefinitionError(f"Outbox({name!r}): {sink!r:.80} is no Sink")
        self.name = name
        self.sink = sink
        self.value = value
        owner = f"a message of outbox {name}"
        self._adapter: TypeAdapter[Any] | None = (
            None if value in (bytes, str) else adapter_for(value, owner)
        )
        file = calling_frame(1).f_code.co_filename
        _, of_file = registry.outboxes.get(name, (self, file))
        if of_file != file and not registry.is_apart():
            raise DefinitionError(
                f"there are two outboxes {name!r}, in {of_file} and in {file}: declare it once, "
                "and import it"
            )
        registry.outboxes[name] = (self, file)

    async def publish(
        self,
        value: T,
        *,
        key: str | bytes | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        """Put a message into the outbox, in the commit of what the workflow decides beside it.

        In a workflow only; a transactional activity has `tx.publish`. However often the workflow is
        replayed, it is one message. It waits for nothing.

        Args:
            value: of the declared type.
            key: what keeps its order, where the broker has partitions.
            headers: more that goes along, up to 100 texts.

        Raises:
            InvalidArguments: it does not fit the type, or cannot be sent.
            PayloadTooLarge: it has more than 2 MB.
            EverlongError: not called in a workflow.
        """
        run = current_run()
        if run is None:
            raise EverlongError(
                f"{self.name!r}.publish() can only be called inside a running workflow: a "
                "transactional activity has tx.publish(outbox, value), and no other activity can "
                "publish in its commit"
            )
        where = source_line(calling_frame(1))
        draft = draft_of(self, value, key, headers)
        run.outputs.publish(run, f"{_CHANNEL}{self.name}", _Codec(self), draft, where, keep=None)

    def encode(self, value: object) -> bytes:
        """Not for flows: a value as it is published. Raises InvalidArguments."""
        if self._adapter is None:
            if type(value) is not self.value:
                raise self._misfit(f"{shown(value)} is no {self.value.__name__}")
            return value if isinstance(value, bytes) else storable(str(value), "value").encode()
        if self.value is Any and isinstance(value, bytes | str):
            return value if isinstance(value, bytes) else storable(value, "value").encode()
        try:
            dumped: bytes = self._adapter.dump_json(self._adapter.validate_python(value))
        except ValidationError as error:
            raise self._misfit(describe(error)) from None
        except PydanticSerializationError as error:
            raise self._misfit(str(error)) from error
        return dumped

    def renewed(self, stored: bytes) -> bytes:
        """Not for flows: a stored value as today's type writes it."""
        if self._adapter is None or self.value is Any:
            return stored
        try:
            return self._adapter.dump_json(self._adapter.validate_json(stored))
        except ValueError:
            return stored

    def _misfit(self, reason: str) -> InvalidArguments:
        return InvalidArguments(f"a message of outbox {self.name}: {reason}")

    def __repr__(self) -> str:
        return f"Outbox({self.name!r})"


class _Codec:
    """How the history holds what a workflow puts into an outbox."""

    def __init__(self, outbox: Outbox[Any]) -> None:
        self._outbox = outbox

    def encode(self, value: object) -> bytes:
        assert isinstance(value, Draft)
        return value.payload

    def decode(self, data: bytes) -> Any:
        """Its value is what today's type makes of it, so that a new field with a default changes
        nothing for those that are replayed."""
        value, key, headers = parts_of(data)
        return Draft(self._outbox.name, self._outbox.renewed(value), key, headers)


def draft_of(
    outbox: Outbox[Any] | str,
    value: object,
    key: str | bytes | None,
    headers: Mapping[str, str] | None,
) -> Draft:
    """Not public: a checked message. Raises InvalidArguments or PayloadTooLarge."""
    known = outbox if isinstance(outbox, Outbox) else registry.outboxes.get(outbox, (None, ""))[0]
    if not isinstance(known, Outbox):
        raise InvalidArguments(
            f"{shown(outbox)} is no outbox that has been declared: Outbox(name, sink), at module "
            "level"
        )
    checked = Draft(known.name, known.encode(value), _key(key), _headers(headers))
    within_limit(f"a message of outbox {known.name}", checked.payload)
    return checked


def _key(key: object) -> bytes | None:
    if key is None or isinstance(key, bytes):
        return key
    if not isinstance(key, str):
        raise InvalidArguments(f"key={key!r:.80}: give a text or bytes")
    return storable(key, "key").encode()


def _headers(headers: Mapping[Any, Any] | None) -> dict[str, str]:
    found: dict[str, str] = {}
    for name, text in (headers or {}).items():
        if not (isinstance(name, str) and isinstance(text, str) and f"{name}{text}".isprintable()):
            raise InvalidArguments(
                f"headers: {name!r:.40}: {text!r:.40}: give texts without control characters"
            )
        if not name or name.lower().startswith("everlong-"):
            raise InvalidArguments(f"headers: {name!r}: names that begin so are Everlong's own")
        found[storable(name, "headers")] = storable(text, "headers")
    if len(found) > _HEADERS_MAX:
        raise InvalidArguments(f"headers: {len(found)}, and there may be {_HEADERS_MAX}")
    return found


def parts_of(payload: bytes) -> _Parts:
    """Not public: what a stored message holds. Raises UndecodablePayload."""
    parts: Any = unpack(payload)
    return _Parts(*parts)


def outbox_in(channel: str) -> str | None:
    """Not public: the outbox that an output channel stands for; None: it is one."""
    return channel[len(_CHANNEL) :] if channel.startswith(_CHANNEL) else None
