"""The arithmetic of the report, on samples made by hand."""

from typing import cast

from benchmarks._catalogue import Against, Benchmark, Better, Figure, Figures
from benchmarks._limit import Limit
from benchmarks._report import Json, PeerSamples, Report, Sample, as_json, as_table

RATE = Figure("rows_kept_per_s", Better.MORE, Against.ROWS, goal_ratio=0.1, goal=1_000)
COST = Figure("ms_per_row", Better.LESS, Against.COMMIT, goal_ratio=4, goal=0.5)
BYTES = Figure("bytes", Better.LESS, goal=10)

BENCHMARK = Benchmark(
    name="rows",
    story="rows are kept",
    unit="rows",
    size=10,
    size_quick=1,
    figures=(RATE, COST, BYTES),
)


def sample(rate: float, cost: float, commits_per_s: float, rows_per_s: float) -> Sample:
    return Sample(
        figures={"rows_kept_per_s": rate, "ms_per_row": cost, "bytes": 12.0},
        limit=Limit(commits_per_s=commits_per_s, rows_per_s=rows_per_s),
    )


SAMPLES = (
    sample(rate=1_000, cost=0.5, commits_per_s=10_000, rows_per_s=10_000),
    sample(rate=100, cost=5.0, commits_per_s=1_000, rows_per_s=500),  # a slow moment of the machine
    sample(rate=2_000, cost=0.4, commits_per_s=10_000, rows_per_s=10_000),
)


def report(*theirs: Figures) -> Report:
    peer = PeerSamples(name="other", settings="as it comes", size=5, samples=list(theirs))
    return Report(
        benchmark=BENCHMARK,
        size=10,
        machine={"cpus": 2},
        samples=SAMPLES,
        peers=[peer] if theirs else [],
    )


def section(found: Json, name: str) -> Json:
    part = found[name]
    assert isinstance(part, dict)
    return cast(Json, part)


def test_figures_are_medians_under_their_own_names() -> None:
    found = as_json(report())
    assert (found["rows_kept_per_s"], found["ms_per_row"], found["bytes"]) == (1_000, 0.5, 12)
    assert found["repeats"] == 3


def test_ratio_is_taken_within_each_sample() -> None:
    assert as_json(report())["ratio"] == {"rows_kept_per_s": 0.2, "ms_per_row": 5}


def test_ratio_decides_before_the_absolute_figure() -> None:
    lines = {line.split()[0]: line for line in as_table(report()).splitlines() if line}
    assert "reached" in lines["rows_kept_per_s"]  # 0.2 of the limit
    assert "short" in lines["ms_per_row"]  # 0.5 ms, but five commits
    assert "short" in lines["bytes"]


def test_peer_is_compared_with_the_run_next_to_it() -> None:
    theirs = [{"ms_per_row": cost} for cost in (1.0, 50.0, 0.8)]
    other = section(section(as_json(report(*theirs)), "peers"), "other")
    assert other["ms_per_row"] == 1.0
    assert other["everlong_better_by"] == {"ms_per_row": 2.0}
    assert "2 times less" in as_table(report(*theirs))
