from pathlib import Path

import pytest

import everlong
from samples import fan_out


def test_a_thousand_activities_are_summed_up_without_those_that_fail(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fan_out.main(str(tmp_path / "it.db"))
    out = capsys.readouterr().out
    assert "13860 words on 990 pages" in out
    assert "not readable: 42, 142, 242" in out


def test_at_most_so_many_run_at_once(tmp_path: Path) -> None:
    report = everlong.run(fan_out.fan_out, pages=30, at_once=1, db=tmp_path / "it.db")
    assert report.pages == 30
    assert not report.unreadable
