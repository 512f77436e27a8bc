"""Verify and doctor; and how a store that cannot be used is told."""

import socket
import sqlite3
from pathlib import Path

import pytest

from tests.cli.conftest import Here
from tests.support.command_line import MARKET, everlong, worker


@pytest.mark.usefixtures("started")
def test_verify_exits_1_when_a_history_is_damaged(here: Here, tmp_path: Path) -> None:
    everlong("run", f"{MARKET}:order", "-a", "id=3", "-q", folder=tmp_path)
    whole = here("verify")
    assert (whole.code, whole.out) == (0, "✓ everlong.db: every history is whole\n")
    with sqlite3.connect(tmp_path / "everlong.db") as connection:
        connection.execute("DELETE FROM history WHERE seq = 3")
    connection.close()
    damaged = here("verify")
    assert damaged.code == 1
    assert "problem" in damaged.out
    found = here("verify", "--json")
    assert (found.code, found.document["ok"]) == (1, False)
    assert found.document["problems"][0]["run_id"]


def test_doctor_tells_versions_settings_workers_and_warnings(here: Here, tmp_path: Path) -> None:
    with worker(str(MARKET), folder=tmp_path) as facts:
        found = everlong("doctor", str(MARKET), "--json", folder=tmp_path).document
        assert found["store"]["synchronous"] == "FULL"
        assert found["versions"]["everlong"]
        assert found["workers"][0]["pid"] == facts["pid"]
        assert any("without a timeout: charge, must_be_mended." in w for w in found["warnings"])
        assert facts["name"] in here("doctor").out
    text = here("doctor").out
    assert "none is running" in text
    assert "without a timeout" not in text


def test_a_worker_that_was_killed_is_not_taken_for_alive(here: Here, tmp_path: Path) -> None:
    here("start", "purchase", "--id", "p1", "-a", "amount=5")
    with sqlite3.connect(tmp_path / "everlong.db") as connection:
        gone = (b"w" * 16, "gone:1", 2**22 + 1, socket.gethostname())
        connection.execute(
            "INSERT INTO workers"
            " (worker_id, name, pid, host, started_us, beat_us, dead, queue, types)"
            " VALUES (?, ?, ?, ?, 0, 0, 0, 'default', '[\"purchase\"]')",
            gone,
        )
    connection.close()
    assert "none is here for purchase" in here("show", "p1").out
    assert "the worker gone:1 is gone without a word" in here("doctor").out


@pytest.mark.parametrize(
    "command",
    ["list", "show x", "history x", "signal x y", "query x y", "cancel x", "terminate x",
     "pause x", "resume x", "paused", "verify", "doctor"],
)  # fmt: skip
def test_commands_that_look_make_no_file(here: Here, tmp_path: Path, command: str) -> None:
    done = here(*command.split(), "--db", "other.db")
    assert done.code == 3
    assert "other.db cannot be opened" in done.out + done.err
    assert not list(tmp_path.iterdir())


def test_doctor_is_content_where_no_store_was_made(here: Here, tmp_path: Path) -> None:
    assert here("doctor").code == 0
    assert not list(tmp_path.iterdir())


def test_a_missing_store_is_told_in_one_line_and_nothing_else(tmp_path: Path) -> None:
    done = everlong("list", folder=tmp_path)
    assert (done.code, done.out) == (3, "")
    assert len(done.err.splitlines()) == 1


def test_a_foreign_file_is_refused(here: Here, tmp_path: Path) -> None:
    (tmp_path / "letter.db").write_text("Dear reader, " * 100)
    done = here("list", "--db", "letter.db")
    assert done.code == 3
    assert "is not an Everlong store" in done.err


def test_the_database_of_another_program_is_left_as_it_was(here: Here, tmp_path: Path) -> None:
    connection = sqlite3.connect(tmp_path / "books.db")
    connection.execute("CREATE TABLE books (title)")
    connection.close()
    before = (tmp_path / "books.db").read_bytes()
    for command in ("list", "start purchase", "worker json"):
        assert here(*command.split(), "--db", "books.db").code == 3
    assert (tmp_path / "books.db").read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["books.db"]


def test_the_store_is_named_by_the_environment(
    here: Here, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EVERLONG_URL", f"sqlite:///{tmp_path}/named.db")
    assert here("start", "purchase", "-a", "amount=1").code == 0
    assert (tmp_path / "named.db").exists()
    assert len(here("list", "--json").document["items"]) == 1
    assert here("list", "--db", "unnamed.db").code == 3
