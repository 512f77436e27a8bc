"""One target in this process: `python -m tests.fuzz.one TARGET SECONDS [SEED]`.

With atheris what is tried next depends on the branches that were reached; where there is no wheel
of it, seeds are mutated by chance. The last line says how often, as JSON.
"""

import importlib
import importlib.util
import json
import random
import re
import sys
import time
from collections.abc import Callable
from typing import Any

__all__ = ["executions", "has_atheris"]

_BYTES_MAX = 4096
_DONE = re.compile(r"stat::number_of_executed_units:\s*(\d+)|Done (\d+) runs")


def has_atheris() -> bool:
    """Whether it is installed."""
    return importlib.util.find_spec("atheris") is not None


def executions(told: str) -> int:
    """How often a target was called, by what its process printed."""
    found = [int(one or other) for one, other in _DONE.findall(told)]
    return max(found, default=0)


def by_coverage(name: str, seconds: int, seed: int) -> None:
    atheris: Any = importlib.import_module("atheris")
    with atheris.instrument_imports(include=["everlong", "everlong_engine"]):
        targets = importlib.import_module("tests.fuzz.targets")
    options = [f"-max_total_time={seconds}", f"-seed={seed}", f"-max_len={_BYTES_MAX}"]
    options += ["-print_final_stats=1", "-timeout=20", "-rss_limit_mb=1024", "-verbosity=1"]
    for one in targets.SEEDS:  # Once each, and as what the dictionary of mutations learns from.
        targets.TARGETS[name](one)
    atheris.Setup([sys.argv[0], *options], targets.TARGETS[name])
    atheris.Fuzz()  # Ends the process.


def by_chance(name: str, seconds: int, seed: int) -> None:
    targets = importlib.import_module("tests.fuzz.targets")
    target: Callable[[bytes], None] = targets.TARGETS[name]
    chance, count, end = random.Random(seed), 0, time.monotonic() + seconds
    while time.monotonic() < end:
        data = mutated(chance.choice(targets.SEEDS), chance)
        try:
            target(data)
        except BaseException:
            print(f"with {data!r}", file=sys.stderr)
            raise
        count += 1
    print(json.dumps({"runs": count}))
    print(f"Done {count} runs", file=sys.stderr)


def mutated(seed: bytes, chance: random.Random) -> bytes:
    """A few bytes changed, cut out, doubled or made up."""
    data = bytearray(seed)
    for _ in range(chance.randrange(1, 8)):
        at = chance.randrange(len(data) + 1)
        match chance.randrange(5):
            case 0:
                data[at : at + 1] = bytes([chance.randrange(256)])
            case 1:
                del data[at : at + chance.randrange(1, 9)]
            case 2:
                data[at:at] = data[: chance.randrange(1, 17)]
            case 3:
                data[at:at] = chance.randbytes(chance.randrange(1, 9))
            case _:
                data[at:at] = bytes([chance.choice((0xC1, 0xC7, 0xDC, 0xDD, 0xDF, 0x80, 0x91))])
    return bytes(data[:_BYTES_MAX])


def main() -> None:
    name, seconds, *rest = sys.argv[1:]
    seed = int(rest[0]) if rest else random.randrange(1, 1 << 30)
    print(f"seed {seed}", file=sys.stderr)
    (by_coverage if has_atheris() else by_chance)(name, int(seconds), seed)


if __name__ == "__main__":
    main()
