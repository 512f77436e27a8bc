"""The pytest plugin, in runs of pytest as a user has them."""

import subprocess
import sys
from pathlib import Path

import pytest

FLOW = """
import asyncio
import sys
import pytest
from everlong import checkpoint, workflow

@workflow
async def plugged(rounds: int) -> int:
    done = 0
    while done < rounds:
        await asyncio.sleep(24 * 3600)
        done += 1
        await checkpoint(rounds=rounds)
    return done
"""
ASYNCIO = """
@pytest.mark.asyncio
async def test_asyncio(everlong_env):
    assert await everlong_env.client.run(plugged, 3) == 3
    assert (everlong_env.now.day, everlong_env.now.month) == (4, 1)

@pytest.mark.asyncio(loop_scope="session")
async def test_on_the_loop_of_the_session(everlong_env):
    assert await everlong_env.client.run(plugged, 3) == 3
"""
ANYIO = """
@pytest.fixture
def anyio_backend():
    return "asyncio"

@pytest.mark.anyio
async def test_anyio(everlong_env):
    assert await everlong_env.client.run(plugged, 3) == 3
"""
OPTIONS = """
class TestOptions:
    @pytest.fixture
    def everlong_options(self):
        return {"workflows": [], "patience": 0.1}

    @pytest.mark.asyncio
    async def test_options(self, everlong_env):
        with pytest.raises(Exception, match="waits for a worker"):
            await everlong_env.client.run(plugged, 3)
"""
FORGETS = """
@pytest.mark.asyncio
async def test_forgets(everlong_env):
    handle = await everlong_env.client.start(plugged, 3)
    await everlong_env.advance(days=10)
    found = await everlong_env.client.list(status="continued_as_new")
    assert bool(found.items) is EXPECTED
"""
UNUSED = """
import sys

def test_nothing_of_everlong_is_imported():
    found = sorted(name for name in sys.modules if name.startswith("everlong"))
    assert [name for name in found if not name.startswith("everlong_pytest")] == []
"""
INI = "[pytest]\nasyncio_default_fixture_loop_scope = function\nfilterwarnings = error\n"


def run(folder: Path, code: str, *options: str, ini: str = INI) -> str:
    (folder / "pytest.ini").write_text(ini, encoding="utf-8")
    (folder / "test_user.py").write_text(code, encoding="utf-8")
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *options],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    return done.stdout + done.stderr


def test_the_fixture_works_with_pytest_asyncio_and_with_anyio(tmp_path: Path) -> None:
    assert "4 passed" in run(tmp_path, FLOW + ASYNCIO + ANYIO + OPTIONS)


def test_it_works_with_anyio_alone_and_says_what_is_missing_without_either(tmp_path: Path) -> None:
    code = FLOW + ANYIO + "def test_none(everlong_env):\n    pass\n"
    shown = run(tmp_path, code, "-p", "no:asyncio", ini="[pytest]\nfilterwarnings=error\n")
    assert "1 passed, 1 error" in shown
    assert "install pytest-asyncio, or mark the test" in shown


@pytest.mark.parametrize(
    ("options", "setting", "expected"),
    [
        ((), "asyncio_mode = auto\n", "False"),
        (("--everlong-amnesia", "--everlong-always-replay"), "", "True"),
        ((), "everlong_amnesia = true\n", "True"),
    ],
)
def test_modes_are_chosen_by_an_option_or_a_setting(
    tmp_path: Path, options: tuple[str, ...], setting: str, expected: str
) -> None:
    code = FLOW + FORGETS.replace("EXPECTED", expected)
    assert "1 passed" in run(tmp_path, code, *options, ini=INI + setting)


def test_who_does_not_use_it_pays_nothing(tmp_path: Path) -> None:
    assert "1 passed" in run(tmp_path, UNUSED)
