"""Each benchmark runs, in miniature, and prints what the README promises. No time is asserted.

Peers are not part of the suite: they install other engines and run for minutes. By hand:
`python -m benchmarks throughput --quick --peer dbos --peer temporal`.
"""

import json
import subprocess
import sys
from pathlib import Path
from typing import cast

import pytest

from benchmarks._catalogue import BENCHMARKS
from benchmarks.streams import BATCHES
from tests.support.postgres_server import shared_server

ROOT = Path(__file__).resolve().parents[2]
TIMEOUT_S = 60

# Size, and the names of the figures: they are read by others, so they are written down again here.
PROMISED: dict[str, tuple[int, set[str]]] = {
    "throughput": (20, {"workflows_per_s", "p50_ms", "p99_ms"}),
    "sequential": (5, {"ms_per_activity"}),
    "fanout": (20, {"activities_per_s"}),
    "roundtrip": (
        3,
        {
            "round_trips_per_s",
            "p50_ms",
            "other_process_round_trips_per_s",
            "other_process_p50_ms",
        },
    ),
    "sleepers": (20, {"starts_per_s", "kb_per_sleeper", "bytes_per_sleeper"}),
    "recovery": (10, {"recover_s", "recover_all_s", "lost", "repeated_attempts"}),
    "replay": (20, {"events_per_s", "events_per_s_10x", "flatness"}),
    "retention": (
        20,
        {
            *("claims_ratio", "claims_ratio_p10", "claims_ratio_p90", "pruned_per_s"),
            *("claims_per_s", "claims_per_s_pruning", "claim_p99_ms", "claim_p99_ms_pruning"),
        },
    ),
    "streams": (
        200,
        {f"{body}_{most}_per_s" for body in ("transactional", "activity") for most in BATCHES}
        | {"entities_500_per_s"},
    ),
}


def bench(*arguments: str) -> str:
    command = [sys.executable, "-m", "benchmarks", *arguments]
    done = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, timeout=TIMEOUT_S, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def numbers(found: object) -> dict[str, float]:
    assert isinstance(found, dict)
    values = cast(dict[str, object], found)
    assert all(isinstance(value, float) for value in values.values()), values
    return cast(dict[str, float], values)


def test_every_benchmark_is_promised() -> None:
    assert PROMISED.keys() == BENCHMARKS.keys()


@pytest.mark.parametrize("name", PROMISED)
def test_benchmark_prints_one_json_object_with_its_figures(name: str, tmp_path: Path) -> None:
    size, names = PROMISED[name]
    output = bench(name, "--json", "--quick", "--repeat=1", f"--size={size}", f"--dir={tmp_path}")
    found: dict[str, object] = json.loads(output.splitlines()[-1])
    assert found["benchmark"] == name
    assert found["size"] == size
    assert numbers({key: found[key] for key in names}).keys() == names
    assert numbers(found["limit"]).keys() == {"commits_per_s", "commit_ms", "rows_per_s"}
    assert numbers(found["ratio"]).keys() <= names
    if name == "recovery":
        assert found["lost"] == 0
    assert not list(tmp_path.iterdir())


def test_a_benchmark_runs_on_a_server(tmp_path: Path) -> None:
    server = shared_server().url()
    output = bench(
        "fanout", "--quick", "--repeat=1", "--size=9", f"--dir={tmp_path}", f"--url={server}"
    )
    assert "activities_per_s" in output
    assert "limit: asyncpg" in output
    assert not list(tmp_path.iterdir())


def test_what_is_about_a_file_runs_on_no_server(tmp_path: Path) -> None:
    options = ("recovery", f"--dir={tmp_path}", "--url=postgresql://127.0.0.1:1/x")
    with pytest.raises(AssertionError, match="is about a file"):
        bench(*options)


def test_people_get_a_table(tmp_path: Path) -> None:
    output = bench("sequential", "--quick", "--repeat=1", "--size=5", f"--dir={tmp_path}")
    assert "ms_per_activity" in output
    assert "× commit" in output
    assert "bare sqlite3" in output
