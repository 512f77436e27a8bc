from datetime import timedelta
from pathlib import Path

import pytest

from everlong.testing import Environment
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


async def test_three_days_of_silence_are_a_refusal(everlong_env: Environment) -> None:
    env = everlong_env
    env.fake(approval.refund, returns=None)
    began = env.now
    boat = Purchase(item="boat", amount=9_000)
    assert await env.client.run(approval.approval, boat) == "nobody answered in 3 days, 0:00:00"
    assert env.now - began == timedelta(days=3)
    assert [call.args for call in env.calls(approval.refund)] == [("deposit for boat",)]


async def test_a_supplier_that_is_down_for_a_while_is_asked_again(
    everlong_env: Environment,
) -> None:
    env = everlong_env
    env.fail(approval.pay, ConnectionError("down"), times=2)
    env.time_out(approval.pay)
    desk = Purchase(item="desk", amount=900)
    handle = await env.client.start(approval.approval, desk)
    await env.restart_worker()
    assert await handle.result() == "paid"
    assert [call.attempt for call in env.calls(approval.pay)] == [1, 2, 3, 4]
    assert not env.calls(approval.refund)
