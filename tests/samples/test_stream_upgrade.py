import asyncio
import json
import sys
from pathlib import Path
from typing import Any

from tests.samples.conftest import ROOT, Start, lines_until
from tests.support.hosting import until


async def said(folder: Path, *arguments: str) -> list[str]:
    """What one command says."""
    words = ("-m", "samples.stream_upgrade", "--folder", str(folder), *arguments)
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, *words), cwd=ROOT, stdout=asyncio.subprocess.PIPE
    )
    output, _ = await process.communicate()
    assert process.returncode == 0
    return output.decode().splitlines()


async def test_a_flow_is_replaced_and_each_order_is_booked_once(
    start: Start, tmp_path: Path
) -> None:
    host = ("-m", "samples.stream_upgrade", "--folder", str(tmp_path), "work")

    async def standing(count: int) -> Any:
        (line,) = await said(tmp_path, "standing")
        found, booked = json.loads(line)
        return [found, booked] if found["count"] == count else None

    await said(tmp_path, "order", "ann", "700")
    async with start(*host) as process:
        await lines_until(process, "reading")
        await said(tmp_path, "order", "bob", "300")
        assert await until(lambda: standing(2)) == [
            {"count": 2, "total": 1000},
            {"first": "1 2"},
        ]
        (line,) = await said(tmp_path, "upgrade")
        assert line.endswith("with {'count': 2, 'total': 1000}")
        await said(tmp_path, "order", "ann", "50")
        assert await until(lambda: standing(3)) == [
            {"count": 3, "total": 1050, "ann": 50},
            {"first": "1 2", "second": "3"},
        ]
        process.kill()
    await said(tmp_path, "order", "ann", "5")
    async with start(*host) as process:
        await lines_until(process, "reading")
        assert await until(lambda: standing(4)) == [
            {"count": 4, "total": 1055, "ann": 55},
            {"first": "1 2", "second": "3 4"},
        ]
