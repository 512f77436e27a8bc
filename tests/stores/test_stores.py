"""Every store that a released version left half way is finished by this one."""

import shutil
from pathlib import Path

import pytest

from everlong import Client, Worker
from tests.stores import flows

STORES = sorted(Path(__file__).parent.glob("*.db"))


def test_there_is_a_store_to_finish() -> None:
    assert STORES


@pytest.mark.parametrize("kept", STORES, ids=lambda path: path.stem)
async def test_kept_store_is_finished(kept: Path, tmp_path: Path) -> None:
    path = tmp_path / kept.name
    shutil.copy(kept, path)
    async with Client.connect(path, retention=None) as client:
        assert await client.verify() == []
        open_runs = (await client.list(status="running", limit=100)).items
        assert {one.workflow_id for one in open_runs} == {
            "backs-off",
            "carries",
            "dies-in-activity",
            "large",
            "sleeps",
            "waits-for-signal",
        }
        async with Worker(client):
            waits = client.get_handle("waits-for-signal", flows.waits_for_signal)
            carries = client.get_handle("carries", flows.carries)
            large = client.get_handle("large", flows.large)
            assert await carries.query(flows.seen) == 5
            for handle in (waits, carries, large):
                await handle.signal(flows.verdict, True)
            assert await waits.result() == "ANN True"
            assert await carries.result() == 5
            assert await large.result() == 100_007
            assert (
                await client.get_handle("dies-in-activity", flows.dies_in_activity).result()
                == "PARALLEL after the crash"
            )
            # Due seconds after they were written: long ago.
            assert await client.get_handle("sleeps", flows.sleeps).result() == "WOKE"
            assert await client.get_handle("backs-off", flows.backs_off).result() == "mended"
        assert await client.verify() == []
