"""Counting instructions: what cachegrind says is read, and starting costs fall out."""

from pathlib import Path

import pytest

from benchmarks import work

TOLD = "some output\n==7== \n==7== I   refs:      2,411,429,449\n{}\n"


def test_the_count_is_read_from_what_cachegrind_says() -> None:
    assert work.instructions(TOLD) == 2_411_429_449
    with pytest.raises(work.NotCounted, match="cannot run"):
        work.instructions("valgrind: cannot run")


@pytest.mark.parametrize("name", work.WORKLOADS)
def test_what_does_not_grow_with_the_size_is_not_counted(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    units = work.WORKLOADS[name].per_size

    def sources(commit: str, folder: Path) -> Path:
        return folder / commit

    def cachegrind(name: str, size: int, sources: Path, folder: Path) -> str:
        return f"==1== I refs: {2_000_000_000 + 1_000 * size * units:,}"

    monkeypatch.setattr(work, "_sources", sources)
    monkeypatch.setattr(work, "_under_cachegrind", cachegrind)
    assert work.count(name, "HEAD", tmp_path) == 1_000


def test_a_line_says_how_far_it_is_from_the_first() -> None:
    told = work.line("HEAD", 1_011_000, 1_000_000, "workflow")
    assert told.split() == ["HEAD", "1,011,000", "instructions", "per", "workflow", "+1.1%"]


def test_a_commit_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(work.NotCounted, match="no-such-commit"):
        work.count("throughput", "no-such-commit", tmp_path)
