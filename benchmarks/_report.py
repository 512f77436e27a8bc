"""From samples to one JSON object and one table.

Each sample carries the limit that held around it, so a ratio is taken within one sample and the
median over samples; dividing two medians would mix a quiet moment with a busy one. The table shows
ratios first and absolute figures in brackets, and the goal beside what was measured.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from statistics import median

from benchmarks._catalogue import Against, Benchmark, Better, Figure, Figures
from benchmarks._limit import Limit

Json = dict[str, object]

_SIGN = {Better.MORE: "≥", Better.LESS: "≤"}
_OF = {Against.ROWS: "of rows/s", Against.COMMIT: "× commit"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """One measurement of Everlong, and the limit around it."""

    figures: Figures
    limit: Limit


@dataclass(frozen=True, slots=True, kw_only=True)
class PeerSamples:
    """What a peer did with the same workload in the same invocation."""

    name: str
    settings: str
    size: int
    samples: list[Figures] = field(default_factory=list[Figures])


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """All that one benchmark found in one invocation."""

    benchmark: Benchmark
    size: int
    machine: dict[str, str | int]
    samples: Sequence[Sample]
    peers: Sequence[PeerSamples] = ()


def as_json(report: Report) -> Json:
    """The figures under their own names at the top, what explains them below."""
    figures = report.benchmark.figures
    return {
        "benchmark": report.benchmark.name,
        "size": report.size,
        "repeats": len(report.samples),
        **{figure.name: _rounded(_median(report, figure)) for figure in figures},
        "limit": {
            "commits_per_s": _rounded(median(it.limit.commits_per_s for it in report.samples)),
            "commit_ms": _rounded(median(it.limit.commit_ms for it in report.samples)),
            "rows_per_s": _rounded(median(it.limit.rows_per_s for it in report.samples)),
        },
        "ratio": {
            figure.name: _rounded(_ratio(report, figure)) for figure in figures if figure.against
        },
        "goal": {figure.name: _goal(figure) for figure in figures if figure.goal is not None},
        "samples": [
            {name: _rounded(value) for name, value in it.figures.items()} for it in report.samples
        ],
        "peers": {peer.name: _peer(report, peer) for peer in report.peers},
        "machine": report.machine,
    }


def as_table(report: Report) -> str:
    """The same for people."""
    limit = as_json(report)["limit"]
    assert isinstance(limit, dict)
    lines = [
        f"{report.benchmark.name}: {report.size:,} {report.benchmark.unit}; "
        f"{report.benchmark.story}; median of {len(report.samples)}",
        f"limit: {report.samples[0].limit.of} [{limit['commits_per_s']:,.0f} single-row commits/s, "
        f"{limit['commit_ms']:.3f} ms each; {limit['rows_per_s']:,.0f} rows/s by the hundred]",
        "on: " + ", ".join(f"{name} {value}" for name, value in report.machine.items()),
        "",
        *_columns([("figure", "ratio", "absolute", "goal", "", "range"), *_rows(report)]),
    ]
    for peer in report.peers:
        lines += [
            "",
            f"beside {peer.name} ({peer.size:,} {report.benchmark.unit}; {peer.settings})",
            *_columns([("figure", "everlong is", "absolute"), *_peer_rows(report, peer)]),
        ]
    return "\n".join(lines)


def _rows(report: Report) -> Iterator[tuple[str, ...]]:
    for figure in report.benchmark.figures:
        values = [sample.figures[figure.name] for sample in report.samples]
        yield (
            figure.name,
            _with_unit(figure, _ratio(report, figure)) if figure.against else "",
            f"[{_short(median(values))}]",
            _goal_text(figure),
            _verdict(report, figure),
            f"[{_short(min(values))} – {_short(max(values))}]" if len(values) > 1 else "",
        )


def _peer_rows(report: Report, peer: PeerSamples) -> Iterator[tuple[str, ...]]:
    for figure in _shared(report, peer):
        value = median(sample[figure.name] for sample in peer.samples)
        better = "more" if figure.better is Better.MORE else "less"
        yield (
            figure.name,
            f"{_short(_advantage(report, peer, figure))} times {better}",
            f"[{_short(value)}]",
        )


def _peer(report: Report, peer: PeerSamples) -> Json:
    shared = list(_shared(report, peer))
    return {
        "settings": peer.settings,
        "size": peer.size,
        **{it.name: _rounded(median(one[it.name] for one in peer.samples)) for it in shared},
        "everlong_better_by": {it.name: _rounded(_advantage(report, peer, it)) for it in shared},
    }


def _shared(report: Report, peer: PeerSamples) -> Iterator[Figure]:
    return (it for it in report.benchmark.figures if it.name in peer.samples[0])


def _advantage(report: Report, peer: PeerSamples, figure: Figure) -> float:
    """How many times better Everlong did, each of its runs against the peer's run next to it."""
    pairs = zip(report.samples, peer.samples, strict=True)
    quotients = [ours.figures[figure.name] / theirs[figure.name] for ours, theirs in pairs]
    return median(it if figure.better is Better.MORE else 1 / it for it in quotients)


def _median(report: Report, figure: Figure) -> float:
    return median(sample.figures[figure.name] for sample in report.samples)


def _ratio(report: Report, figure: Figure) -> float:
    return median(_one_ratio(sample, figure) for sample in report.samples)


def _one_ratio(sample: Sample, figure: Figure) -> float:
    value = sample.figures[figure.name]
    match figure.against:
        case Against.ROWS:
            return value / sample.limit.rows_per_s
        case Against.COMMIT:
            return value / sample.limit.commit_ms
        case None:
            return value


def _verdict(report: Report, figure: Figure) -> str:
    found, goal = _median(report, figure), figure.goal
    if figure.goal_ratio is not None:
        found, goal = _ratio(report, figure), figure.goal_ratio
    if goal is None:
        return ""
    reached = found >= goal if figure.better is Better.MORE else found <= goal
    return "reached" if reached else "short"


def _goal(figure: Figure) -> Json:
    return {"better": figure.better.value, "ratio": figure.goal_ratio, "value": figure.goal}


def _goal_text(figure: Figure) -> str:
    if figure.goal is None:
        return ""
    sign, value = _SIGN[figure.better], _short(figure.goal)
    if figure.goal_ratio is None:
        return f"{sign} [{value}]"
    return f"{sign} {_with_unit(figure, figure.goal_ratio)} [{value}]"


def _with_unit(figure: Figure, ratio: float) -> str:
    return f"{_short(ratio)} {_OF[figure.against]}" if figure.against else _short(ratio)


def _rounded(value: float) -> float:
    return float(f"{value:.4g}")


def _short(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def _columns(rows: Sequence[tuple[str, ...]]) -> list[str]:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    ]
