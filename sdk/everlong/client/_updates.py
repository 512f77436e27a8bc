"""Updates, seen by whoever sent them."""

import asyncio
from typing import TYPE_CHECKING, Any, Final, Generic, TypeVar

from everlong._failures import ExceptionRegistry, decode_failure
from everlong._values import Value
from everlong.client._connected import require_here
from everlong.exceptions import (
    UpdateFailed,
    UpdateRejected,
    UpdateUnfinished,
    WorkflowBlocked,
    WorkflowClosed,
    WorkflowNotFound,
)
from everlong_engine import Failure, RunRow, RunStatus, Target, id_text, name_of_update, unpack

if TYPE_CHECKING:
    from everlong.client._client import Client

__all__ = ["BEGUN", "UpdateHandle"]

R = TypeVar("R")


def _reason(failure: Failure) -> str:
    """In the words of whoever raised it; Everlong's own errors need no name in front."""
    name = failure.type.removeprefix("builtins.")
    message = failure.message.removesuffix(".")
    if name.startswith("everlong"):
        return message
    return f"{name}: {message}" if message else name


_IN_THE_INBOX: Final = b"accepted"
_ENDED: Final = frozenset({"completed", "failed", "unfinished"})
BEGUN: Final = _ENDED | {"recorded"}
"""The stages of an update that has passed its validator."""
_BLOCKED_S: Final = 1.0
"""A run that is found blocked may be about to go on: its worker has just come with other code."""


class _Patience:
    """How much longer one waits for a run that is blocked."""

    def __init__(self) -> None:
        self._until_s: float | None = None

    def left_s(self, row: RunRow) -> float | None:
        """Seconds; None while the run is at work."""
        if row.status is not RunStatus.BLOCKED:
            self._until_s = None
            return None
        now_s = asyncio.get_running_loop().time()
        if self._until_s is None:
            self._until_s = now_s + _BLOCKED_S
        return self._until_s - now_s


class UpdateHandle(Generic[R]):
    """One update that was sent: wait for its result, now or later, from any process.

    What people get wrong: an id belongs to an execution for as long as that is kept. The same id
    sent again is the same update, whatever its arguments, and has the same result.
    """

    def __init__(
        self,
        client: "Client",
        target: Target,
        update_id: str,
        update: str,
        *,
        value: Value | None = None,
        exceptions: ExceptionRegistry | None = None,
    ) -> None:
        self._client = client
        self._target = target
        self._value = value
        self._exceptions = ExceptionRegistry() if exceptions is None else exceptions
        self.workflow_id = target.workflow_id
        self.id = update_id
        self.update = update

    def __repr__(self) -> str:
        return f"<UpdateHandle {self.update} {self.id} of {self.workflow_id}>"

    async def result(self) -> R:
        """Wait for what the handler returned, rebuilt by the declared type.

        Raises:
            UpdateRejected: the validator refused it, or its arguments do not fit.
            UpdateFailed: an exception left the handler; it is the `__cause__`.
            UpdateUnfinished: the workflow ended, or began anew, before the handler had finished.
            WorkflowBlocked: its run is blocked, for a second and longer, by a fault in its code.
                The update is stored, and is performed when the run goes on: wait again then.
            WorkflowClosed: the workflow ended before the update reached it.
            WorkflowNotFound: there is no such execution, or it has no such update.
        """
        stage, data = await self.wait(until=_ENDED)
        match stage:
            case "completed":
                value: Any = unpack(data) if self._value is None else self._value.decode(data)
                return value  # type: ignore[no-any-return]
            case "failed":
                failure = Failure.from_wire(unpack(data))
                raise UpdateFailed(**self._facts(failure)) from self._rebuilt(failure)
            case _:
                raise UpdateUnfinished(
                    workflow_id=self.workflow_id, update=self.update, update_id=self.id
                )

    async def wait(self, *, until: frozenset[str]) -> tuple[str, bytes]:
        """Not public: wait for a stage, and raise what an update that never began met."""
        name = name_of_update(self.id)
        execution_id = self._target.execution_id
        assert execution_id is not None, "an update belongs to one execution"
        blocked = _Patience()
        while True:
            engine = self._client.engine
            # Listen first, then look: what is stored in between is not missed.
            news: list[asyncio.Future[Any]] = [
                engine.answer(execution_id, name),
                engine.closing(execution_id),
                engine.changed(),
            ]
            try:
                found = await engine.store.told(self._target, name)
                heard = self._heard(found, until)
                if heard is not None:
                    return heard
                assert found is not None
                left_s = blocked.left_s(found[0])
                if left_s is not None and left_s <= 0:
                    raise self._blocked(found[0])
                done, _ = await asyncio.wait(
                    news, timeout=left_s, return_when=asyncio.FIRST_COMPLETED
                )
                for one in done:
                    one.result()  # Raises when the store has failed.
            finally:
                for one in news:
                    one.cancel()

    def _heard(
        self, found: tuple[RunRow, bytes | None] | None, until: frozenset[str]
    ) -> tuple[str, bytes] | None:
        row, answer = found or (None, None)
        if row is None or answer is None:
            raise WorkflowNotFound(
                f"{self.workflow_id!r} knows no update {self.id!r}", workflow_id=self.workflow_id
            )
        stage, data = "sent", b""
        if answer != _IN_THE_INBOX:
            stage, data = self._client.records.hear(self._target, self.id, answer)
        if stage == "rejected":
            failure = Failure.from_wire(unpack(data))
            raise UpdateRejected(**self._facts(failure)) from self._rebuilt(failure)
        if stage in until:
            return stage, data
        if row.status.is_open or row.status.is_followed:
            return None
        require_here(row)
        if stage == "recorded":
            return "unfinished", b""  # Closed from outside: nobody was left to say so.
        raise WorkflowClosed(workflow_id=self.workflow_id, status=row.status.text)

    def _blocked(self, row: RunRow) -> WorkflowBlocked:
        return WorkflowBlocked(
            workflow_id=self.workflow_id,
            run_id=id_text(row.run_id),
            update=self.update,
            update_id=self.id,
            reason=(self._client.records.shown_reason(row) or "no reason is recorded").rstrip("."),
        )

    def _facts(self, failure: Failure) -> dict[str, Any]:
        return {
            "workflow_id": self.workflow_id,
            "update": self.update,
            "update_id": self.id,
            "reason": _reason(failure),
        }

    def _rebuilt(self, failure: Failure) -> BaseException | None:
        return decode_failure(failure, self._exceptions, strict=False)
