"""Earlier versions of Everlong, taken from the history of the repository and run beside this one.

`STORES.md` names the commit of each. Where the history is not here (an archive of the sources, a
shallow clone) these tests cannot run; in CI that is a failure, unless the clone says it is shallow.
"""

import os
import re
import subprocess
import sys
import tarfile
from pathlib import Path
from typing import Final

import pytest

from tests.support.tools import need, unavailable

FOLDER: Final = Path(__file__).parent
ROOT: Final = FOLDER.parents[1]

COMMITS: Final = dict(
    re.findall(
        r"^\| ([\w.]+)\.db \| .* \| ([0-9a-f]{40}) \|$",
        (FOLDER / "STORES.md").read_text(encoding="utf-8"),
        re.MULTILINE,
    )
)
"""Version to the commit that wrote its kept store."""


def older_code(version: str, folder: Path) -> Path:
    """The sources of that version, in `folder`."""
    need("git")
    commit = COMMITS[version]
    if _git("cat-file", "-e", f"{commit}^{{commit}}").returncode != 0:
        reason = f"the history of the repository is not here, so {version} cannot be built"
        if _git("rev-parse", "--is-shallow-repository").stdout.strip() == "true":
            pytest.skip(f"{reason} (the clone is shallow)")
        unavailable(reason)
    archive = folder / "sources.tar"
    done = _git("archive", f"--output={archive}", commit)
    assert done.returncode == 0, done.stderr
    with tarfile.open(archive) as sources:
        sources.extractall(folder / "sources", filter="data")
    return folder / "sources"


def run_older(
    sources: Path, *arguments: str, folder: Path, **environment: str
) -> subprocess.CompletedProcess[str]:
    """Python with that version's packages instead of this one's."""
    path = os.pathsep.join(map(str, (sources / "sdk", sources / "engine", sources)))
    return subprocess.run(
        [sys.executable, "-P", *arguments],
        cwd=folder,
        env={"PATH": os.environ["PATH"], "PYTHONPATH": path, **environment},
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )


def schema_of(sources: Path, folder: Path) -> int:
    """The newest schema that this version knows."""
    code = "from everlong_engine.store.sqlite.files import SCHEMA_VERSION as it; print(it)"
    return int(run_older(sources, "-c", code, folder=folder).stdout)


def _git(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=False
    )
