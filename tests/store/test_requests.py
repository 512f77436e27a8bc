"""What was asked once is done once, whoever has the workflow id when it is asked again."""

import asyncio
from collections.abc import Callable
from typing import Final

from hypothesis import given, settings, strategies as st

from everlong_engine.model.requests import name_of_pin, name_of_termination
from everlong_engine.model.runs import RunStatus
from everlong_engine.model.writes import MessageResult, Pause, Pin, Resume, Terminate, Write
from everlong_engine.store.memory.data import MemoryData
from everlong_engine.store.memory.store import MemoryStore
from everlong_engine.store.sqlite.inline import InlineDatabase
from tests.support.store_rig import Rig


def terminate(rig: Rig, request_id: str) -> Terminate:
    made = rig.terminate()
    assert made.append_id is not None
    name = name_of_termination(request_id, made.append_id)
    return Terminate(
        made.target, made.row_kind, made.row_body, made.status, made.now_us, made.append_id, name
    )


VERBS: Final[dict[str, Callable[[Rig, str], Write]]] = {
    "message": lambda rig, name: rig.message(request_id=f"m{name}"),
    "pause": lambda rig, name: Pause(rig.target(), rig.now_us, "ann", "lunch", f"p{name}"),
    "resume": lambda rig, name: Resume(rig.target(), rig.now_us, f"r{name}"),
    "pin": lambda rig, name: Pin(rig.target(), name, name_of_pin(name)),
    "terminate": terminate,
}
steps = st.lists(
    st.tuples(st.just("start"), st.none())
    | st.tuples(st.sampled_from(sorted(VERBS)), st.sampled_from("123")),
    max_size=40,
)


async def rigs() -> list[Rig]:
    return [Rig(InlineDatabase().open()), Rig(MemoryStore(MemoryData()))]


async def _each_is_done_once(plan: list[tuple[str, str | None]]) -> None:
    for rig in await rigs():
        told: dict[tuple[str, str], bytes] = {}
        """Who was the first to be asked."""
        mail: dict[bytes, int] = {}
        for verb, name in plan:
            rig.now_us += 1
            if name is None:
                await rig.one(rig.start())
                continue
            before = await rig.store.latest(rig.target())
            result = await rig.one(VERBS[verb](rig, name))
            assert isinstance(result, MessageResult)
            after = await rig.store.latest(rig.target())
            if before is None:
                assert result.status is None
            elif (verb, name) in told:
                assert (result.duplicate, result.execution_id) == (True, told[verb, name])
                assert after == before
            elif before.status.is_open:
                assert (result.duplicate, result.execution_id) == (False, before.execution_id)
                told[verb, name] = before.execution_id
                assert after is not None
                assert after.status is _expected(verb, before.status)
                if verb == "message":
                    mail[before.execution_id] = mail.get(before.execution_id, 0) + 1
            else:
                assert not result.duplicate
                assert after == before
        row = await rig.store.latest(rig.target())
        if row is not None and row.status.is_open:
            loaded = await rig.store.load(row.shard, row.run_id)
            assert loaded is not None
            assert len(loaded.mail) == 1 + mail.get(row.execution_id, 0)  # Its start, too.
        await rig.store.close()


def _expected(verb: str, before: RunStatus) -> RunStatus:
    match verb:
        case "terminate":
            return RunStatus.TERMINATED
        case "pause":
            return RunStatus.PAUSED
        case "resume":
            return RunStatus.RUNNING
        case _:
            return before


@settings(deadline=None)
@given(steps)
def test_each_request_is_done_once_over_all_executions_of_an_id(
    plan: list[tuple[str, str | None]],
) -> None:
    asyncio.run(_each_is_done_once(plan))


async def test_a_message_without_a_request_id_is_known_again_too(rig: Rig) -> None:
    await rig.owned()
    message = rig.message(sent=rig.sent())
    await rig.one(message)
    first = (await rig.row()).execution_id
    await rig.one(rig.terminate())
    await rig.started()
    again = await rig.one(message)
    assert isinstance(again, MessageResult)
    assert (again.duplicate, again.execution_id) == (True, first)
    later = await rig.one(rig.message(sent=rig.sent()))
    assert isinstance(later, MessageResult)
    assert later.position is not None


async def test_who_names_an_execution_means_that_one_only(rig: Rig) -> None:
    await rig.owned()
    await rig.send(request_id="r")
    await rig.one(rig.terminate())
    row = await rig.started()
    result = await rig.send(request_id="r", execution_id=row.execution_id)
    assert not result.duplicate
