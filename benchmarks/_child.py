"""One role of one benchmark in this process: `python -m benchmarks._child NAME.ROLE FOLDER SIZE`.

Good for profiling, too, in a folder that is empty and on a real disk:
`python -m cProfile -s tottime -m benchmarks._child throughput.measure FOLDER 6000`.
"""

import asyncio
import gc
import importlib
import sys
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import cast

from benchmarks._catalogue import BENCHMARKS, Figures
from benchmarks._process import print_figures

Role = Callable[[Path, int], Coroutine[None, None, Figures]]


def find_role(name: str) -> Role:
    benchmark, _, role = name.partition(".")
    if benchmark not in BENCHMARKS or not role:
        sys.exit(f"no role {name!r}: give BENCHMARK.FUNCTION, such as throughput.measure")
    module = importlib.import_module(f"benchmarks.{benchmark}")
    return cast(Role, getattr(module, role))


def main() -> None:
    name, folder, size = sys.argv[1:]
    role = find_role(name)
    gc.collect()
    gc.freeze()  # As `everlong worker` does; the peers' processes do it, too.
    print_figures(asyncio.run(role(Path(folder), int(size))))


if __name__ == "__main__":
    main()
