"""`everlong lint`: each rule by the examples of its reference, and what must not be found."""

import re
from pathlib import Path

import pytest

from everlong._lint import RULES, lint
from tests.cli.conftest import Here

ROOT = Path(__file__).resolve().parent.parent.parent
REFERENCE = (ROOT / "docs" / "reference" / "lint.md").read_text("utf-8")
PYTHON = re.compile(r"^```python[ \t]*(.*?)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
EXAMPLES = dict(PYTHON.findall(REFERENCE))
HEAD = """
import asyncio, os, random, time
from everlong import Query, Signal, Update, activity, checkpoint, side_effect, workflow

@activity(timeout=1)
async def work(x): ...
"""


def found(tmp_path: Path, code: str) -> list[str]:
    path = tmp_path / "flow.py"
    path.write_text(HEAD + code)
    return [one.rule.code for one in lint([path])]


@pytest.mark.parametrize("code", RULES)
def test_each_rule_has_a_bad_and_a_good_example(code: str, tmp_path: Path) -> None:
    bad, good = (tmp_path / f"{code}_{which}.py" for which in ("bad", "good"))
    for path in (bad, good):
        path.write_text(EXAMPLES[path.name])
    assert {one.rule.code for one in lint([bad])} == {code}
    assert lint([good]) == []
    assert f"\n## {code}: {RULES[code].title}\n" in REFERENCE


@pytest.mark.parametrize("folder", ["samples", "benchmarks"])
def test_our_own_flows_are_clean(folder: str) -> None:
    """Those that must be quick to read leave timeouts out."""
    assert lint([ROOT / folder], ignore=["EV101"]) == []


def test_the_flows_of_the_documentation_are_clean(tmp_path: Path) -> None:
    for page in sorted((ROOT / "docs").rglob("*.md")):
        if page.name in ("lint.md", "determinism.md"):  # They show what not to do.
            continue
        text = "".join(block for _, block in PYTHON.findall(page.read_text("utf-8")))
        path = tmp_path / f"{page.stem.replace('-', '_')}.py"
        path.write_text(text)
        assert [str(one) for one in lint([path], ignore=["EV101"])] == []


# ------------------------------------------------------------------------- what is found where


@pytest.mark.parametrize(
    ("body", "code"),
    [
        ("asyncio.sleep(5)", "EV001"),
        ("work.options(timeout=3)(1)", "EV001"),
        ("_ = work(1)", "EV001"),
        ("checkpoint()", "EV001"),
        ("letters.receive()", "EV001"),
        ("other.start()", "EV001"),
        ("helper()", "EV001"),
        ("await asyncio.gather(*{work(x) for x in 'ab'})", "EV002"),
        ("for x in {'a', 'b'} | set(names): await work(x)", "EV002"),
        ("await work([x for x in set(names)])", "EV002"),
        ("await work(','.join({'a', 'b'}))", "EV002"),
        ("await work(list(set(names)))", "EV002"),
        ("left = {'a', 'b'}; await work(left.pop())", "EV002"),
        ("await work(next(iter({'a', 'b'})))", "EV002"),
        ("seen = set(); seen.add(names[0])\n    for x in seen: await work(x)", "EV002"),
        ("await work(list({'a': 1}.keys() - {'b': 1}.keys()))", "EV002"),
        ("await work(hash('a'))", "EV005"),
        ("await work(os.getenv('A'))", "EV005"),
        ("await asyncio.to_thread(print)", "EV004"),
        ("with open('x'): pass", "EV004"),
        ("counts['x'] = 1", "EV006"),
        ("await work(next(numbers))", "EV006"),
        ("await work(total)", "EV006"),
        ("try: await work(1)\n    finally: return", "EV007"),
        ("try: await work(1)\n    except (ValueError, BaseException): pass", "EV007"),
        ("with suppress(BaseException): await work(1)", "EV007"),
    ],
)
def test_a_mistake_in_a_workflow_is_found(tmp_path: Path, body: str, code: str) -> None:
    module = f"""
import itertools
from contextlib import suppress
letters = Signal("letters")
counts = dict()
numbers = itertools.count()
total = 0

def count():
    global total
    total += 1

async def helper(): ...

@workflow
async def other(): ...

@workflow
async def flow(names: list[str]):
    {body}
"""
    assert found(tmp_path, module) == [code]


@pytest.mark.parametrize(
    "body",
    [
        "await asyncio.gather(work(1), work(2))",
        "coming = [work(x) for x in 'ab']; await asyncio.gather(*coming)",
        "task = asyncio.create_task(work(1)); await task",
        "for x in sorted({'a', 'b'}): await work(x)",
        "for x in {1, 2}: await work(x)",
        "for x in set(range(3)): await work(x)",
        "for x in set(numbers): await work(x)",
        "await work(sum(len(x) for x in {'a', 'b'}))",
        "await work('a' in {'a', 'b'})",
        "await work({'a', 'b'})",
        "await work(sorted(list({'a', 'b'})))",
        "await work(sorted([x for x in {'a', 'b'}]))",
        "tasks = set(); tasks.add(asyncio.create_task(work(1)))\n    for t in tasks: await t",
        "done, left = await asyncio.wait([asyncio.create_task(work(1))])\n"
        "    for t in done: await t",
        "total = 0\n    for x in {'a', 'b'}: total += len(x)\n    await work(total)",
        "await work(time.time()); await work(random.random())",
        "await work(await side_effect(lambda: os.environ['A']))",
        "def region(): return os.environ['A']\n    await work(await side_effect(region))",
        "@asked.handler\n    def _(): return os.environ['A']",
        "asked.handler(looks)",
        "@done.validator\n    def _(): return list({'a', 'b'})",
        "seen = []; seen.append(1); await work(seen)",
        "await work(TABLE['a'])",
        "try: await work(1)\n    except BaseException: raise",
        "try: await work(1)\n    except asyncio.CancelledError: pass",
        "try: await work(1)\n    except asyncio.CancelledError: raise\n    except: pass",
        "try: work\n    except: pass",
        "open = work; await open(1)",
        "await work(names.pop())",
        "from time import time; await work(time())",
    ],
)
def test_what_is_right_is_left_alone(tmp_path: Path, body: str) -> None:
    module = f"""
asked = Query("asked")
done = Update("done")
TABLE = {{"a": 1}}
TABLE["b"] = 2

def looks(): return os.environ["A"]

@workflow
async def flow(names: list[str], numbers: list[int]):
    {body}
"""
    assert found(tmp_path, module) == []


def test_helpers_in_other_modules_are_followed(tmp_path: Path) -> None:
    (tmp_path / "shop").mkdir()
    (tmp_path / "shop" / "__init__.py").write_text("from shop.clocks import stamp\n")
    (tmp_path / "shop" / "clocks.py").write_text(
        "from time import time\nfrom . import rules\n"
        "def stamp(): return rules.rounded(time())\n"
        "def never_called(): return time()\n"
    )
    (tmp_path / "shop" / "rules.py").write_text(
        "import datetime as dt\ndef rounded(x): return x or dt.datetime.now()\n"
    )
    (tmp_path / "flow.py").write_text(
        "import everlong\nimport shop\n\n"
        "@everlong.workflow\nasync def flow(): return shop.stamp()\n"
    )
    first, second = lint([tmp_path / "flow.py"])
    assert (first.path.name, first.line, first.rule.code) == ("clocks.py", 3, "EV003")
    assert "from time import time" in first.message
    assert (second.path.name, second.line, second.column) == ("rules.py", 2, 29)
    assert "workflow flow, by way of stamp → rounded" in second.message


def test_an_activity_is_followed_into_what_it_calls(tmp_path: Path) -> None:
    code = """
def slow(): time.sleep(1)

@activity(timeout=3)
async def direct(): slow()

@activity(timeout=3)
async def in_a_thread(): await asyncio.to_thread(slow)

@activity(timeout=3)
def plain(): slow()
"""
    assert found(tmp_path, code) == ["EV102"]


def test_decorators_may_be_kept_in_a_variable(tmp_path: Path) -> None:
    code = """
patient = activity(timeout=3)
endless = activity(at_most_once=True)

@patient
def one(): time.sleep(1)

@endless
def two(): time.sleep(1)

@workflow
async def flow():
    await one()
    await two()
"""
    assert found(tmp_path, code) == ["EV101"]


def test_what_a_comment_accepts_is_not_found(tmp_path: Path) -> None:
    code = """
@activity  # everlong: ignore[EV101]
def one(): ...

@workflow
async def flow():
    one()  # everlong: ignore
    await one(
        hash("a")
    )  # everlong: ignore[EV004, EV005]
    text = "# everlong: ignore"; work(1)
"""
    assert found(tmp_path, code) == ["EV005", "EV001"]


# ---------------------------------------------------------------------------------- the command


def test_the_command_tells_where_what_and_the_fix(here: Here, tmp_path: Path) -> None:
    (tmp_path / "flow.py").write_text(EXAMPLES["EV001_bad.py"])
    done = here("lint", "flow.py")
    assert done.code == 1
    assert done.out == (
        "flow.py:10:5: EV001 the activity `charge` is called and never awaited, so it never "
        "happens\n    Write `await` before it.\n1 finding in 1 file\n"
    )
    (one,) = here("lint", ".", "--json").document["findings"]
    assert (one["file"], one["line"], one["column"], one["code"]) == ("flow.py", 10, 5, "EV001")
    clean = here("lint", ".", "--ignore", "EV001")
    assert (clean.code, clean.out) == (0, "✓ nothing found\n")


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["gone.py"], "gone.py cannot be read"),
        (["broken.py"], "broken.py:1: this is no Python"),
        (["binary.py"], "binary.py"),
        (["imports_broken.py"], "broken.py:1: this is no Python"),
        ([".", "--ignore", "EV1"], "there is no such code, only EV000"),
    ],
)
def test_what_cannot_be_read_exits_2(
    here: Here, tmp_path: Path, arguments: list[str], told: str
) -> None:
    (tmp_path / "broken.py").write_text("def (:\n")
    (tmp_path / "binary.py").write_bytes(b"\x00\xff\xfe")
    (tmp_path / "imports_broken.py").write_text(
        "from everlong import workflow\nimport broken\n@workflow\nasync def flow(): broken.x()\n"
    )
    done = here("lint", *arguments)
    assert (done.code, done.out) == (2, "")
    assert told in done.err


def test_nothing_of_the_source_is_run(here: Here, tmp_path: Path) -> None:
    (tmp_path / "flow.py").write_text("raise SystemExit(3)\n")
    assert here("lint", "flow.py").code == 0
