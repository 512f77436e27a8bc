"""Runs a script in many fresh processes, each with its own hash seed and layout of memory.

What is ordered by address or by the hash of a string comes out differently in some of them.
"""

import os
import subprocess
import sys
import textwrap
from concurrent.futures import ThreadPoolExecutor
from typing import Final

PROCESSES: Final = 20
SIDE_BY_SIDE: Final = 2

# Blocks of every small size, freed in random order: what is allocated next lands in their places.
STIR_MEMORY: Final = """
import random as _random
_blocks = [bytes(_size) for _size in range(8, 480, 8) for _ in range(150)]
_random.Random().shuffle(_blocks)
del _blocks[::2]
"""


def outputs(script: str, processes: int = PROCESSES) -> set[str]:
    """The distinct outputs; a process that fails raises with what it wrote."""
    with ThreadPoolExecutor(SIDE_BY_SIDE) as pool:
        return set(pool.map(_output, [script] * processes, range(processes)))


def _output(script: str, hash_seed: int) -> str:
    done = subprocess.run(
        [sys.executable, "-c", STIR_MEMORY + textwrap.dedent(script)],
        env={**os.environ, "PYTHONHASHSEED": str(hash_seed)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout
