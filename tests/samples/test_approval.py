from datetime import timedelta
from pathlib import Path

import pytest

from everlong import Client, Worker
from samples import approval
from samples.approval import Purchase


async def test_a_manager_decides_above_the_limit_and_failures_are_refunded(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    await approval.main(str(tmp_path / "it.db"))
    out = capsys.readouterr().out.splitlines()
    assert "buy-desk: waiting for a manager" in out
    # A refund may print between them: it is made while the results are waited for.
    assert [line for line in out if line.startswith("buy-")][-4:] == [
        "buy-pencil: paid",
        "buy-desk: paid",
        "buy-car: refused by Ada",
        "buy-unicorn: not delivered: unicorns are out of stock",
    ]
    assert sum("gave back" in line for line in out) == 2


async def test_silence_is_a_refusal(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    async with Client.connect(tmp_path / "it.db") as client, Worker(client):
        answer = await client.run(
            approval.approval, Purchase(item="boat", amount=9_000), timedelta(milliseconds=20)
        )
    assert answer == "nobody answered in 0:00:00.020000"
    assert "gave back the deposit for boat" in capsys.readouterr().out
