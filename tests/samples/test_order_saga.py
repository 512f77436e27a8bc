import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from tests.samples.conftest import Start, lines_until

LAST = "its last word: withdrawing"


def balances(folder: Path) -> dict[str, int]:
    with closing(sqlite3.connect(folder / "bank.db")) as bank:
        return dict(bank.execute("SELECT account, sum(amount) FROM bookings GROUP BY account"))


# Killed in the withdrawal's answer, between the two bookings, and while the first is given back.
@pytest.mark.parametrize("moment", ["process", "gift-out", "gift-in", "typo-out: -", "typo-out: v"])
async def test_a_transfer_that_is_killed_moves_all_or_nothing(
    start: Start, tmp_path: Path, moment: str
) -> None:
    async with start("-m", "samples.order_saga", str(tmp_path)) as first:
        await lines_until(first, moment)
        first.kill()
    async with start("-m", "samples.order_saga", str(tmp_path)) as second:
        lines = await lines_until(second, LAST)
    assert balances(tmp_path) == {"ada": 750, "bob": 250}
    ends = [line for line in lines if not line.startswith((" ", "process"))]
    assert ends == [
        "gift: transferred: gift-out, gift-in",
        "typo: failed, NoSuchAccount: bop",
        "yacht: failed, NotEnoughMoney: ada has 750",
    ]


async def test_what_is_done_is_not_done_again(start: Start, tmp_path: Path) -> None:
    async with start("-m", "samples.order_saga", str(tmp_path)) as first:
        await lines_until(first, LAST)
    async with start("-m", "samples.order_saga", str(tmp_path)) as second:
        lines = await lines_until(second, LAST)
    assert not any(line.startswith(("  gift", "  typo", "  yacht")) for line in lines)
    assert balances(tmp_path) == {"ada": 750, "bob": 250}
