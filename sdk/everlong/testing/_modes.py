"""The two modes, for every worker that a test begins, whatever made it."""

from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import replace

from everlong._replay import modes

__all__ = ["always_replay", "amnesia"]


@contextmanager
def always_replay(*, on_replay: Callable[[int], None] | None = None) -> Generator[None]:
    """Replay every history after each of its inputs, in workers that begin inside the block.

    Code that would decide otherwise on replay (it reads a clock through a helper, keeps a counter
    in a module, iterates over a set of strings) is met at the step that shows it: the run is
    blocked with a `NondeterminismError`, and nothing of that step is stored. Costs time with the
    square of a history's length.

        with always_replay():
            async with Environment() as env:
                await env.client.run(order, 17)

    Args:
        on_replay: called behind each replay with the number of inputs that it fed.
    """
    changed = replace(modes.current(), always_replay=True, on_replay=on_replay)
    with modes.use(changed):
        yield


@contextmanager
def amnesia() -> Generator[None]:
    """Begin anew at each `checkpoint` that may, in workers that begin inside the block.

    In production a checkpoint begins the function anew only after a thousand events, so that state
    which somebody forgot to carry as a parameter is lost for the first time months later. Nothing
    happens at a checkpoint that the first drive of a run reaches, nor while steps are in flight.

        with amnesia():
            async with Environment() as env:
                await env.client.run(count_to, 10)
    """
    with modes.use(replace(modes.current(), forgets=True)):
        yield
