"""`python -m benchmarks NAME [--json] [--quick] [--peer dbos] …`: measure, and say what was found.

Everlong and its peers take turns, so that a slow minute of the machine hits all of them. With
`--url` they do it on a PostgreSQL server, each measurement in a database of its own.
"""

import argparse
import json
import os
import platform
import signal
import sqlite3
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import FrameType

from benchmarks._catalogue import BENCHMARKS, Benchmark, Figures
from benchmarks._disk import IN_MEMORY, file_system, scratch
from benchmarks._limit import Limit, between, measure_limit, measure_server_limit
from benchmarks._place import database, server_version
from benchmarks._process import MeasurementFailed, measure_alone, role_command
from benchmarks._report import PeerSamples, Report, Sample, as_json, as_table
from benchmarks.peers import PEERS, Peer


def main() -> None:
    signal.signal(signal.SIGTERM, _leave)  # an ordinary exit, so that children end with us
    options = _parse(sys.argv[1:])
    benchmark = BENCHMARKS[options.name]
    peers = [PEERS[name] for name in dict.fromkeys(options.peer)]
    try:
        with scratch(options.dir) as folder:
            report = measure(benchmark, peers, folder, options)
    except MeasurementFailed as failure:
        sys.exit(f"{benchmark.name} could not be measured: {failure}")
    print(json.dumps(as_json(report)) if options.json else as_table(report))


class Options(argparse.Namespace):
    """The command line, typed."""

    name: str
    json: bool
    quick: bool
    repeat: int
    size: int | None
    peer: list[str]
    dir: Path | None
    url: str | None


def measure(benchmark: Benchmark, peers: Sequence[Peer], folder: Path, options: Options) -> Report:
    """Take turns: the limit, Everlong, the limit, each peer; and again."""
    for peer in peers:
        peer.install()
    if options.url is not None:
        benchmark = replace(benchmark, figures=benchmark.on_server)
    size = options.size or (benchmark.size_quick if options.quick else benchmark.size)
    samples: list[Sample] = []
    others = [
        PeerSamples(
            name=peer.name,
            settings=peer.settings if options.url is None else str(peer.settings_on_server),
            size=options.size or peer.size(benchmark.name, quick=options.quick),
        )
        for peer in peers
    ]
    for turn in range(options.repeat):
        samples.append(_sample(benchmark, _fresh(folder, f"everlong-{turn}"), size, options))
        for peer, other in zip(peers, others, strict=True):
            home = _fresh(folder, f"{peer.name}-{turn}")
            with database(home, options.url):
                command = peer.command(benchmark.name, home, other.size)
                other.samples.append(measure_alone(command, home))
    return Report(
        benchmark=benchmark,
        size=size,
        machine=_machine(folder, options.url),
        samples=samples,
        peers=others,
    )


def _sample(benchmark: Benchmark, folder: Path, size: int, options: Options) -> Sample:
    with database(folder, options.url) as url:
        before = _limit(folder, url, options)
        command = role_command(f"{benchmark.name}.measure", folder, size)
        figures: Figures = measure_alone(command, folder)
        return Sample(figures=figures, limit=between(before, _limit(folder, url, options)))


def _limit(folder: Path, url: str | None, options: Options) -> Limit:
    commits, batches = (300, 30) if options.quick else (2_000, 300)
    if url is not None:
        return measure_server_limit(url, commits=commits, batches=batches)
    return measure_limit(folder, commits=commits, batches=batches)


def _fresh(folder: Path, name: str) -> Path:
    fresh = folder / name
    fresh.mkdir()
    return fresh


def _machine(folder: Path, url: str | None) -> dict[str, str | int]:
    machine: dict[str, str | int] = {
        "cpus": os.cpu_count() or 1,
        "python": platform.python_version(),
    }
    if url is not None:
        return machine | {"postgresql": server_version(url)}
    kind = file_system(folder)
    if kind in IN_MEMORY:
        print(f"{folder} is in memory, where a commit costs nothing: give --dir", file=sys.stderr)
    return machine | {"sqlite": sqlite3.sqlite_version, "file_system": kind}


def _parse(arguments: Sequence[str]) -> Options:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("name", choices=BENCHMARKS, metavar="NAME", help=", ".join(BENCHMARKS))
    parser.add_argument("--json", action="store_true", help="one JSON object on the last line")
    parser.add_argument("--quick", action="store_true", help="small sizes, under ten seconds")
    parser.add_argument("--repeat", type=_positive, default=3, metavar="N", help="runs (3)")
    parser.add_argument("--size", type=_positive, metavar="N", help="instead of the usual size")
    parser.add_argument(
        "--peer", action="append", default=[], choices=PEERS, help="measure it side by side"
    )
    parser.add_argument("--dir", type=Path, help="where databases are written (.bench here)")
    parser.add_argument(
        "--url", help="on this PostgreSQL server; its user must be able to make databases"
    )
    options = parser.parse_args(arguments, Options())
    if options.url is not None and not BENCHMARKS[options.name].on_server:
        parser.error(f"{options.name} is about a file: leave --url out")
    for name in options.peer:
        if options.name not in PEERS[name].sizes:
            parser.error(
                f"{options.name} runs on Everlong only; peers: {', '.join(PEERS[name].sizes)}"
            )
        if options.url is not None and PEERS[name].settings_on_server is None:
            parser.error(f"{name} is not measured on a server here: leave --url out")
    return options


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError("must be at least 1")
    return number


def _leave(signum: int, _frame: FrameType | None) -> None:
    sys.exit(128 + signum)


if __name__ == "__main__":
    main()
