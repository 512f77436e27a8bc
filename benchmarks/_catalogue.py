"""What is measured, under which names, and what was promised.

A figure is judged by its ratio to the machine's limit where one was promised, else by its value.
The goal is printed beside it and never asserted: a benchmark that fails on a busy machine teaches
nobody anything. This page imports nothing of Everlong, so that the harness starts at once.
"""

from dataclasses import dataclass
from enum import Enum
from types import MappingProxyType

Figures = dict[str, float]
"""What one measurement found: figure name to value."""


class Against(Enum):
    """The part of the machine's limit that a figure is divided by."""

    ROWS = "rows_per_s"
    COMMIT = "commit_ms"


class Better(Enum):
    MORE = "at_least"
    LESS = "at_most"


@dataclass(frozen=True, slots=True)
class Figure:
    """One number of a benchmark. `goal_ratio` decides where it is given; `goal` is then a guess."""

    name: str
    better: Better
    against: Against | None = None
    goal_ratio: float | None = None
    goal: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Benchmark:
    """A workload: how large, in which unit, and the figures that it yields."""

    name: str
    story: str
    unit: str
    size: int
    size_quick: int
    figures: tuple[Figure, ...]
    on_server: tuple[Figure, ...] = ()
    """What counts on a server; empty: it is about a file."""


_RETENTION = (
    Figure("claims_ratio", Better.MORE, goal=0.9),
    Figure("claims_ratio_p10", Better.MORE),
    Figure("claims_ratio_p90", Better.LESS),
    Figure("claims_per_s", Better.MORE),
    Figure("claims_per_s_pruning", Better.MORE),
    Figure("claim_p99_ms", Better.LESS),
    Figure("claim_p99_ms_pruning", Better.LESS),
    Figure("pruned_per_s", Better.MORE),
)

_ALL = (
    Benchmark(
        name="throughput",
        story="start, one activity, result; 200 in flight",
        unit="workflows",
        size=6_000,
        size_quick=400,
        figures=(
            Figure("workflows_per_s", Better.MORE, Against.ROWS, 0.055, 6_000),
            Figure("p50_ms", Better.LESS),
            Figure("p99_ms", Better.LESS),
        ),
        on_server=(
            Figure("workflows_per_s", Better.MORE, goal=4_000),
            Figure("p50_ms", Better.LESS),
            Figure("p99_ms", Better.LESS),
        ),
    ),
    Benchmark(
        name="sequential",
        story="activities one after the other in one workflow",
        unit="activities",
        size=200,
        size_quick=50,
        figures=(Figure("ms_per_activity", Better.LESS, Against.COMMIT, 4, 0.5),),
        on_server=(Figure("ms_per_activity", Better.LESS, Against.COMMIT, 2, 0.6),),
    ),
    Benchmark(
        name="fanout",
        story="activities in one gather",
        unit="activities",
        size=5_000,
        size_quick=500,
        figures=(Figure("activities_per_s", Better.MORE, Against.ROWS, 0.14, 15_000),),
        on_server=(Figure("activities_per_s", Better.MORE, goal=10_000),),
    ),
    Benchmark(
        name="roundtrip",
        story="signal in, answer by query, one after the other",
        unit="round trips",
        size=500,
        size_quick=50,
        figures=(
            Figure("round_trips_per_s", Better.MORE),
            Figure("p50_ms", Better.LESS, Against.COMMIT, 6.5, 0.8),
            Figure("other_process_round_trips_per_s", Better.MORE),
            Figure("other_process_p50_ms", Better.LESS, Against.COMMIT),
        ),
        on_server=(
            Figure("round_trips_per_s", Better.MORE),
            Figure("p50_ms", Better.LESS, Against.COMMIT),
            Figure("other_process_round_trips_per_s", Better.MORE),
            Figure("other_process_p50_ms", Better.LESS, Against.COMMIT),
        ),
    ),
    Benchmark(
        name="sleepers",
        story="runs asleep for an hour, held by a fresh process",
        unit="runs",
        size=10_000,
        size_quick=500,
        figures=(
            Figure("starts_per_s", Better.MORE, Against.ROWS, goal=5_000),
            Figure("kb_per_sleeper", Better.LESS, goal=1),
            Figure("bytes_per_sleeper", Better.LESS, goal=1_024),
        ),
    ),
    Benchmark(
        name="recovery",
        story="runs of 5 activities; SIGKILL half way, then a new process",
        unit="runs",
        size=500,
        size_quick=50,
        figures=(
            Figure("recover_s", Better.LESS, goal=1),
            Figure("recover_all_s", Better.LESS),
            Figure("lost", Better.LESS, goal=0),
            Figure("repeated_attempts", Better.LESS),
        ),
    ),
    Benchmark(
        name="replay",
        story="a query makes a fresh process load and replay a history; then one 10 times as long",
        unit="activities",
        size=2_000,
        size_quick=200,
        figures=(
            Figure("events_per_s", Better.MORE, Against.ROWS, goal=80_000),
            Figure("events_per_s_10x", Better.MORE, Against.ROWS, goal=80_000),
            Figure("flatness", Better.MORE, goal=0.8),
            Figure("tool_events_per_s", Better.MORE, goal=50_000),
        ),
    ),
    Benchmark(
        name="retention",
        story="claims while closed runs are pruned, by claims without, window by window",
        unit="closed runs",
        size=100_000,
        size_quick=2_000,
        figures=_RETENTION,
        on_server=_RETENTION,
    ),
    Benchmark(
        name="streams",
        story="a topic of 100-byte messages into SQL rows, activities, or states of 10,000 keys",
        unit="messages",
        size=50_000,
        size_quick=2_000,
        figures=(
            Figure("transactional_1_per_s", Better.MORE, goal=1_000),
            Figure("transactional_100_per_s", Better.MORE, Against.ROWS, goal=40_000),
            Figure("transactional_1000_per_s", Better.MORE, Against.ROWS, goal=100_000),
            Figure("activity_1_per_s", Better.MORE, goal=300),
            Figure("activity_100_per_s", Better.MORE, Against.ROWS, goal=15_000),
            Figure("activity_1000_per_s", Better.MORE, Against.ROWS, goal=60_000),
            Figure("entities_500_per_s", Better.MORE, Against.ROWS, goal=5_000),
        ),
        on_server=(
            Figure("transactional_1_per_s", Better.MORE, goal=4_000),
            Figure("transactional_100_per_s", Better.MORE, goal=80_000),
            Figure("transactional_1000_per_s", Better.MORE, goal=150_000),
            Figure("activity_1_per_s", Better.MORE),
            Figure("activity_100_per_s", Better.MORE),
            Figure("activity_1000_per_s", Better.MORE),
        ),
    ),
)

BENCHMARKS = MappingProxyType({benchmark.name: benchmark for benchmark in _ALL})
