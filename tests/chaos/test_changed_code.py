"""A restart with code that no longer fits: the run stands still, seen, and goes on after a fix."""

from everlong import Client
from tests.chaos import evidence, flows
from tests.chaos.arena import Arena


async def test_a_run_whose_code_changed_waits_for_it_to_be_put_back(arena: Arena) -> None:
    async with Client.connect(arena.db) as client:
        handle = await client.start(flows.changing, id="changing")
        worker = arena.worker(variant="first")
        arena.until(lambda: arena.noted(what="end"), "its first step")
        while not [one for one in await handle.history() if one.kind == "ActivityCompleted"]:
            pass
        before = [one.kind for one in await handle.history()]
        arena.kill(worker)

        worker = arena.worker(variant="second")
        while (await handle.describe()).status != "blocked":
            assert worker.is_alive
        description = await handle.describe()
        assert description.reason is not None
        assert "NondeterminismError" in description.reason
        assert "flows.py" in description.reason
        assert [one.kind for one in await handle.history()] == before, "nothing was appended"
        page = await client.list(status="blocked")
        assert [one.workflow_id for one in page.items] == ["changing"]

        # Nobody else is concerned, and what it is sent waits for it.
        other = await client.start(flows.chain, 1, id="chain")
        assert await other.result() == 15
        await handle.signal(flows.go_on, True)
        arena.kill(worker)

        arena.worker(variant="first")
        assert await handle.result() == "done"
        await evidence.outcomes_are_recorded_once(client)
    await evidence.nothing_is_damaged(arena.db)
