"""Commands run in the tests' own process: what they print and how they end is what is asked."""

from collections.abc import Callable
from pathlib import Path

import pytest

from everlong.cli import main
from everlong.cli._exits import ExitCode
from tests.support.command_line import Done

Command = Callable[..., Done]


@pytest.fixture
def command(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> Command:
    """Runs a command on the store in this test's folder. It never ends with a traceback."""
    monkeypatch.delenv("EVERLONG_URL", raising=False)
    monkeypatch.delenv("EVERLONG_CODECS", raising=False)

    def run(*arguments: str) -> Done:
        capfd.readouterr()
        code = main([*arguments, "--db", str(tmp_path / "everlong.db")])
        printed = capfd.readouterr()
        told = f"{arguments}: {printed.out[-3000:]}\n{printed.err[-3000:]}"
        assert code in set(ExitCode) - {ExitCode.BUG}, told
        assert "Traceback" not in printed.out + printed.err, told
        return Done(int(code), printed.out, printed.err)

    return run
