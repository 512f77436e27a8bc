"""Clients that reset executions and fork them, at points at random."""

from random import Random
from typing import TYPE_CHECKING, Any, Final

from everlong import CannotReset, Client, WorkflowHandle
from everlong.client import Reapply
from everlong_engine import id_from_text
from tests.simulation.carrying import carry_out
from tests.simulation.lineage import Asked
from tests.simulation.plan import Errand

if TYPE_CHECKING:
    from tests.simulation.world import Process, World

__all__ = ["MENDS", "Mender"]

MENDS: Final = ("reset", "fork")
_WORDS: Final = (
    "start",
    "last",
    "last",
    "last-failure",
    "first-activity",
    "last-activity",
    "last-activity:simulation.act",
)
_FAMILIES: Final[dict[Reapply, tuple[str, ...]]] = {
    True: ("signals", "updates"),
    False: (),
    "signals": ("signals",),
    "updates": ("updates",),
}


class Mender:
    """One sender's resets. Like the sender it outlives the processes it runs in, and what it has
    asked for once it asks for again."""

    def __init__(self, world: "World", number: int) -> None:
        self._world = world
        self._chance = Random(f"{world.plan.seed}/mender {number}")
        self._chosen: dict[str, tuple[int | str, Reapply]] = {}

    async def go(
        self, process: "Process", client: Client, errand: Errand, request: str | None
    ) -> None:
        to, reapply = self._choice(errand)
        made = await self._once(client, errand, to, reapply, request)
        world = self._world
        world.told(process, f"acknowledged: {errand.what} {errand.workflow_id} to {to}")
        world.reached(f"acknowledged: {errand.what}")
        journal, name = world.journal, errand.workflow_id
        book = journal.runs.get(_run_of(made))
        began = book is not None and (book.repeats is not None or errand.what == "fork")
        journal.must(began, f"{name}: {errand.text} was acknowledged, and has begun nothing")
        if request is not None and self._chance.random() < 0.4:
            again = await self._once(client, errand, to, reapply, request)
            same = (again._execution_id, _run_of(again)) == (made._execution_id, _run_of(made))  # pyright: ignore[reportPrivateUsage]
            journal.must(same, f"{name}: {errand.text} was asked twice, and begun twice")

    def _choice(self, errand: Errand) -> tuple[int | str, Reapply]:
        """Where to, and which messages come again. The number is one of the history as it is, or
        was when this was asked first."""
        if errand.text not in self._chosen:
            chance = self._chance
            book = self._world.journal.latest(errand.workflow_id)
            to: int | str = 1 + chance.randrange(len(book.events) + 1 if book else 9)
            if chance.random() < 0.5:
                to = chance.choice(_WORDS)
            reapply: Reapply = chance.choice((True, True, True, False, "signals", "updates"))
            self._chosen[errand.text] = to, reapply
            self._world.journal.lineage.asked[errand.text] = Asked(to, _FAMILIES[reapply])
        return self._chosen[errand.text]

    async def _once(
        self, client: Client, errand: Errand, to: int | str, reapply: Reapply, request: str | None
    ) -> WorkflowHandle[Any]:
        handle = client.get_handle(errand.workflow_id, carry_out)
        about: dict[str, Any] = {"reason": errand.text, "reapply": reapply, "request_id": request}
        try:
            if errand.what == "reset":
                return await handle.reset(to, **about)
            number = errand.text.removeprefix("fork ")
            return await handle.fork(f"{errand.workflow_id}~{number}", to, **about)
        except CannotReset:
            self._world.reached(f"{errand.what}: no such point")
            raise


def _run_of(handle: WorkflowHandle[Any]) -> bytes:
    run_id = handle.run_id
    assert run_id is not None
    return id_from_text(run_id)
