"""What is sent together with a start: a signal or an update, in the same transaction."""

from collections.abc import Sequence
from typing import Any, cast

from msgspec import Struct
from msgspec.structs import replace

from everlong._records import Records
from everlong._texts import check_request_id
from everlong._values import within_limit
from everlong.channels import Signal, Update
from everlong.client._handle import WorkflowHandle, requested, signalled
from everlong.client._updates import UpdateHandle
from everlong.exceptions import InvalidArguments
from everlong_engine import (
    Attached,
    Blobs,
    Engine,
    NewRun,
    SignalReceived,
    UpdateReceived,
    name_of_attached,
    name_of_update,
    pack,
    unpack,
)

__all__ = ["Attachment"]


class Attachment(Struct, frozen=True):
    event: SignalReceived | UpdateReceived
    update: Update[Any] | str | None = None

    @classmethod
    def of(
        cls,
        engine: Engine,
        signal: Sequence[Any] | None,
        update: Sequence[Any] | None,
        update_id: str | None,
    ) -> "Attachment | None":
        """Checked before anything is stored.

        Raises:
            InvalidArguments: both were given, or not in their form, or a value does not fit.
        """
        if signal is not None and update is not None:
            raise InvalidArguments("a start takes a signal or an update along, not both")
        if update_id is not None and update is None:
            raise InvalidArguments("update_id= names the update that update= sends: give that, too")
        if signal is not None:
            return cls(signalled(*_signal(signal)))
        if update is None:
            return None
        channel, arguments = _update(update)
        check_request_id(update_id, "update_id")
        if update_id is None:
            update_id = f"{engine.random.getrandbits(64):016x}"
        return cls(requested(channel, update_id, arguments, {}), channel)

    def beside(self, headers: bytes) -> "Attachment":
        """An update has the headers of the start that takes it along."""
        if not (headers and isinstance(self.event, UpdateReceived)):
            return self
        call = cast("list[Any]", unpack(self.event.arguments))
        arguments = within_limit(f"the call of update {self.event.update}", pack([*call, headers]))
        return replace(self, event=replace(self.event, arguments=arguments))

    def attached(self, records: Records, new: NewRun) -> Attached:
        """The message, under a name by which a repeated start knows it again."""
        blobs: Blobs = {}
        kind, body = records.message(new, self.event, blobs)
        if isinstance(self.event, UpdateReceived):
            name = name_of_update(self.event.update_id)
        else:
            name = name_of_attached(new.run_id)
        return Attached(kind, body, name, blobs)

    def handle_of(
        self, handle: WorkflowHandle[Any], execution_id: bytes
    ) -> UpdateHandle[Any] | None:
        if self.update is None or not isinstance(self.event, UpdateReceived):
            return None
        return handle.update_handle(execution_id, self.event.update_id, self.update)


def _signal(given: Any) -> tuple[Any, Any]:
    try:
        channel, value = given
    except (TypeError, ValueError):
        channel = value = None
    if not isinstance(channel, Signal | str) or isinstance(given, str):
        raise InvalidArguments(f"signal={given!r}: give (signal, value)")
    return channel, value  # pyright: ignore[reportUnknownVariableType]


def _update(given: Any) -> tuple[Any, tuple[Any, ...]]:
    try:
        channel, *arguments = given
    except (TypeError, ValueError):
        channel, arguments = None, []
    if not isinstance(channel, Update | str) or isinstance(given, str):
        raise InvalidArguments(f"update={given!r}: give (update, *arguments)")
    return channel, tuple(arguments)  # pyright: ignore[reportUnknownVariableType]
