"""How a savepoint is kept: an item of an output channel of the flow's own.

It is published by the run, so it is a decision in the history, stored in one append and made again
on replay. It lies beside the history as any item does: sealed, exported, verified, and there for as
long as its execution is kept.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final, Literal, TypeAlias

import msgspec

from everlong._definitions import OWN, WorkflowDefinition
from everlong._texts import fault_of_name, shown
from everlong.exceptions import InvalidArguments, UndecodablePayload
from everlong_engine import limits, pack, unpack

__all__ = [
    "NO_WAY_BACK",
    "SAVEPOINTS",
    "SAVEPOINTS_KEPT",
    "TAKES",
    "WAITING",
    "Item",
    "Order",
    "Savepoint",
    "SavepointCodec",
    "checked_name",
    "forgetful",
    "item_of",
    "orders_of",
    "savepoint_of",
]

SAVEPOINTS: Final = f"{OWN}savepoints"
"""The channel."""
SAVEPOINTS_KEPT: Final = limits.SAVEPOINTS_KEPT
TAKES: Final = (
    "without a stop the flow goes on taking messages from {streams}, which its broker forgets, so "
    "no other flow could go on behind it. Stop it with the savepoint: stop=True, or --stop"
)
NO_WAY_BACK: Final = (
    "the states of its keys are what all messages so far have made of them, and there is no way "
    "back for them. Start another execution, under another id: it reads from the beginning of the "
    "source and builds its states anew"
)
"""Of the flow of a keyed entity."""
WAITING: Final = f"{OWN}savepoints"
"""Under which a run carries, among its cursors, what was asked for and not taken yet."""

Carried: TypeAlias = tuple[tuple[str, bytes], ...]


class Order(msgspec.Struct, frozen=True):
    """What is asked for, in the control signal and among the run's cursors."""

    name: str
    request: str
    """By which whoever asks knows the answer."""
    stop: bool = False


class Item(msgspec.Struct, frozen=True, kw_only=True):
    """What is published: a savepoint, why there is none, or that one is not wanted any more."""

    what: Literal["taken", "refused", "deleted"]
    name: str
    request: str
    reason: str = ""
    workflow: str = ""
    arguments: bytes = b""
    cursors: Carried = ()
    carried: Carried = ()

    def packed(self) -> bytes:
        return pack({name: getattr(self, name) for name in self.__struct_fields__})


@dataclass(frozen=True, slots=True, kw_only=True)
class Savepoint:
    """A named point of a flow: how far it had read, and what it carried, at one moment.

        point = await orders.control(handle).savepoint("before-v2", stop=True)
        await client.start(consume_v2, from_savepoint=point, id="orders-v2")

    What people get wrong: it is kept beside its flow, so it goes with the flow's retention.
    """

    name: str
    at: datetime
    """The workflow's `now()` when it was taken."""
    workflow: str
    """The name of the workflow."""
    workflow_id: str
    number: int
    """Of its item; the later of two has the greater one."""
    arguments: bytes = field(repr=False)
    """Not for flows: the parameters as they are stored."""
    cursors: Carried = field(repr=False)
    """Not for flows: how far its loops had come."""
    carried: Carried = field(repr=False)
    """Not for flows: signals that had come, and that nobody had received."""

    @property
    def parameters(self) -> dict[str, Any]:
        """What the flow carried, by parameter, as plain values."""
        return dict(_map_of(self.arguments))

    @property
    def positions(self) -> dict[str, dict[str, int | str]]:
        """How far each stream was read, by its name: the last position of each partition."""
        cursors: dict[str, Any] = {
            name: unpack(data) for name, data in self.cursors if not name.startswith(OWN)
        }
        return {name: wire[1] for name, wire in cursors.items()}

    def arguments_for(
        self, definition: WorkflowDefinition | None, workflow: str, changed: Mapping[str, Any]
    ) -> bytes:
        """Not for flows: with what a workflow is started that goes on from here.

        Raises:
            InvalidArguments: they do not fit it.
        """
        if definition is None:
            return pack({**_map_of(self.arguments), **changed})
        try:
            arguments = definition.parameters.merge(self.arguments, changed)
            return definition.parameters.canonical(arguments)
        except UndecodablePayload as error:
            raise InvalidArguments(
                f"savepoint {self.name!r} of {self.workflow_id} does not fit workflow "
                f"{workflow!r}: {error} Its parameters must take what {self.workflow!r} carried: "
                f"{', '.join(self.parameters) or 'nothing'}"
            ) from error


def _map_of(arguments: bytes) -> dict[str, Any]:
    plain: Any = unpack(arguments)
    if not isinstance(plain, dict):
        raise UndecodablePayload("the parameters of a savepoint are no map", reason="no map")
    return plain  # pyright: ignore[reportUnknownVariableType]


class SavepointCodec:
    """Items to bytes and back. What it reads is as today's code would write it, so that a parameter
    that came later is no change of mind (see `_replay.canonical`)."""

    def __init__(self, definition: WorkflowDefinition) -> None:
        self._parameters = definition.parameters

    def encode(self, value: object) -> bytes:
        assert isinstance(value, Item), "nothing else is published there"
        return value.packed()

    def decode(self, data: bytes) -> Item:
        item = item_of(unpack(data))
        if item.what != "taken":
            return item
        arguments = self._parameters.canonical(item.arguments)
        return msgspec.structs.replace(item, arguments=arguments)


def item_of(value: object) -> Item:
    """Raises UndecodablePayload: it is none."""
    try:
        return msgspec.convert(value, Item)
    except msgspec.ValidationError as error:
        raise UndecodablePayload(reason=f"it is no savepoint: {error}") from error


def orders_of(value: object) -> list[Order]:
    """Raises ValueError: they are none."""
    return msgspec.convert(value, list[Order])


def forgetful(cursors: Mapping[str, Any]) -> list[str]:
    """Streams whose sources forget what was read: their cursors have a third part, the marks.

    Args:
        cursors: as they are stored, unpacked, those of other things too.
    """
    return [name for name, wire in cursors.items() if not name.startswith(OWN) and _has_marks(wire)]


def _has_marks(wire: Any) -> bool:
    match wire:
        case [_, _, bytes()]:
            return True
        case _:
            return False


def savepoint_of(item: Item, number: int, at: datetime, workflow_id: str) -> Savepoint:
    return Savepoint(
        name=item.name,
        at=at,
        workflow=item.workflow,
        workflow_id=workflow_id,
        number=number,
        arguments=item.arguments,
        cursors=item.cursors,
        carried=item.carried,
    )


def checked_name(name: object) -> str:
    """Raises InvalidArguments: it can name no savepoint."""
    if (fault := fault_of_name(name)) is not None:
        raise InvalidArguments(f"a savepoint needs a name, as in before-v2; {shown(name)} {fault}")
    return str(name)
