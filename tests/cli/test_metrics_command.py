"""`everlong stream spread` and `everlong metrics`, each in a process of its own."""

from pathlib import Path
from typing import Final
from urllib.request import urlopen

from tests.support.command_line import begin, everlong, worker_ready

FLOW: Final = """
from everlong import checkpoint, workflow
from everlong.streams import Lines, Stream
from tests.support.spread_worker import Parts
from pathlib import Path

lines = Stream("lines", Parts(Path("parts")))
whole = Stream("whole", Lines("whole.txt"))

@workflow
async def adds(factor: int, total: int = 0) -> int:
    async for batch in lines.batches():
        total += factor * sum(batch.values)
        await checkpoint(total=total)
    return total
"""
ROOT: Final = str(Path(__file__).parents[2])


def test_a_family_is_started_read_and_scraped(tmp_path: Path) -> None:
    (tmp_path / "flow.py").write_text(FLOW)
    (tmp_path / "parts").mkdir()
    for name in ("0", "1", "2"):
        (tmp_path / "parts" / name).write_text("1\n2\n")
    spread = "stream", "spread", "flow.py:lines", "flow.py:adds", "--id", "f", "-a", "factor=3"
    told = everlong(*spread, "--parts", "2", folder=tmp_path, PYTHONPATH=ROOT)
    assert (told.code, told.out) == (0, "✓ 2 flows: f/1/0 … f/1/1\n")
    told = everlong(*spread, "--parts", "2", "--json", folder=tmp_path, PYTHONPATH=ROOT)
    found = {"id": "f", "parts": 2, "generation": 1, "workflow_ids": ["f/1/0", "f/1/1"]}
    assert found.items() <= told.document.items()
    whole = everlong(
        *("stream", "spread", "flow.py:whole", "flow.py:adds", "--id", "w", "--parts", "2"),
        *("-a", "factor=1"),
        folder=tmp_path,
        PYTHONPATH=ROOT,
    )
    assert whole.code != 0
    assert "no partitions that several flows could share" in whole.err
    told = everlong(*spread, "--parts", "3", folder=tmp_path, PYTHONPATH=ROOT)
    assert told.code != 0
    assert "--forget" in told.err
    process = begin(
        *("metrics", "flow.py:lines", "--port", "0", "--json", "--filter", "type = 'adds'"),
        folder=tmp_path,
        PYTHONPATH=ROOT,
    )
    try:
        url = worker_ready(process)["url"]
        with urlopen(url) as answer:
            page = answer.read().decode()
        assert 'everlong_stream_flows{status="running"} 0.0' in page  # Nobody has read yet.
    finally:
        process.terminate()
        process.communicate(timeout=30)
    assert process.returncode == 0
