import os

import pytest

from tests.samples.conftest import Start


async def test_the_demo_survives_its_kills_and_says_so(start: Start) -> None:
    options = ("--kills", "2", "--streams", "4", "--errors", "0")
    async with start("-m", "samples.order_stream_demo", *options) as process:
        out = (await process.communicate())[0].decode()
    assert process.returncode == 0, out
    assert out.count("kill -9:") == 2
    assert "nothing lost, nothing twice" in out
    figures = dict(
        line.strip().rsplit(maxsplit=1) for line in out.splitlines() if line.startswith("  lost")
    )
    assert figures == {"lost": "0"}


async def test_an_interrupted_demo_takes_its_processes_with_it(start: Start) -> None:
    async with start("-m", "samples.order_stream_demo", "--kills", "50") as process:
        assert process.stdout is not None
        line, group = "", 0
        while "goes on" not in line:
            line = (await process.stdout.readline()).decode()
            if "as process" in line:
                group = int(line.split()[-1])
        process.terminate()
        await process.communicate()
    assert process.returncode == 130
    with pytest.raises(ProcessLookupError):
        os.killpg(group, 0)
