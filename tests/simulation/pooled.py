"""Which executions of the simulation are in a pool: those that nobody else may have to wait for.

An execution that waits for another one in its pool may wait for ever, and so does everybody behind
one that is parked: such programs are in the pool, but of no key, and only keys have a limit here.
"""

from collections.abc import Iterable
from dataclasses import fields, is_dataclass
from typing import Any, Final, cast

from everlong.pools import TurnRule
from tests.simulation.language import Bomb, Child, Mistake, Other

__all__ = ["POOL", "TURNS", "place_of"]

POOL: Final = "turns"
_NOT_ALONE: Final = (Child, Other, Bomb, Mistake)


def place_of(program: Iterable[Any], *_: object, **__: object) -> str:
    """The key of an execution; "" for one without."""
    return "" if any(map(_is_not_alone, program)) else "alone"


def _is_not_alone(step: object) -> bool:
    if isinstance(step, _NOT_ALONE):
        return True
    if isinstance(step, list | tuple):
        return any(map(_is_not_alone, cast("Iterable[object]", step)))
    if is_dataclass(step):
        return any(_is_not_alone(getattr(step, one.name)) for one in fields(step))
    return False


class _Turns(TurnRule):
    """Keys of a pool are never empty; those of no key have none."""

    def place(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[str, int]:
        return place_of(*args, **kwargs), 0


TURNS: Final = _Turns("simulation.carry_out", POOL, None, 0)
