import asyncio
import json
import sys
from pathlib import Path

from tests.samples.conftest import ROOT, Start, lines_until
from tests.support.hosting import until


async def said(folder: Path, *arguments: str) -> list[str]:
    """What one command says."""
    words = ("-m", "samples.fraud_watch", "--folder", str(folder), *arguments)
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, *words), cwd=ROOT, stdout=asyncio.subprocess.PIPE
    )
    output, _ = await process.communicate()
    assert process.returncode == 0
    return output.decode().splitlines()


async def test_an_alarm_is_raised_once_by_the_rule_of_its_time(
    start: Start, tmp_path: Path
) -> None:
    host = ("-m", "samples.fraud_watch", "--folder", str(tmp_path), "watch")

    async def alarms(count: int) -> list[list[object]] | None:
        found = [json.loads(line) for line in await said(tmp_path, "alarms")]
        return found if len(found) == count else None

    async with start(*host) as process:
        await lines_until(process, "watching")
        await said(tmp_path, "pay", "ann", "700", "--at", "12:00:05")
        await said(tmp_path, "pay", "ann", "500", "--at", "12:00:30")
        await said(tmp_path, "pay", "bob", "900", "--at", "12:01:30")
        assert await until(lambda: alarms(1)) == [["ann", "12:00", 1200, 1000]]
        process.kill()
    await said(tmp_path, "limit", "2000")  # Nobody is there: it waits.
    async with start(*host) as process:
        await lines_until(process, "watching")
        await said(tmp_path, "pay", "bob", "1500", "--at", "12:01:40")
        await said(tmp_path, "pay", "eve", "1999", "--at", "12:02:00")
        await said(tmp_path, "pay", "eve", "1999", "--at", "12:04:00")
        assert await until(lambda: alarms(2)) == [
            ["ann", "12:00", 1200, 1000],
            ["bob", "12:01", 2400, 2000],
        ]
