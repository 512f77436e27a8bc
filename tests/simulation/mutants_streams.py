"""Defects in what reads streams: batches, cursors, acknowledgements, and rows beside them."""

from typing import Final

from everlong.streams._batches import Batches
from everlong.streams._forgetful import ForgetfulReader
from everlong.streams._moves import _only  # pyright: ignore[reportPrivateUsage]
from everlong.streams._pump import Pump
from everlong.streams._stream import Stream
from everlong.worker._appends import Appends
from everlong_engine.store.sqlite import appends
from tests.simulation.planting import Edit, Mutant, mutant

__all__ = ["STREAMS"]

STREAMS: Final[tuple[Mutant, ...]] = (
    mutant(
        "a batch is acknowledged before its commit",
        Edit(
            Stream[int]._read,  # pyright: ignore[reportPrivateUsage]
            "context.when_stored(lambda: pump.stored(fetched.cursor))",
            "pump.stored(fetched.cursor)",
        ),
    ),
    mutant(
        "a broker that forgets hears of one message more than is stored",
        Edit(ForgetfulReader.to_acknowledge, "[0] <= count", "[0] <= count + 1"),
    ),
    mutant(
        "what a broker sends again is taken for new",
        Edit(ForgetfulReader.position_of, "mark in self._seen", "False"),
    ),
    mutant(
        "a batch that was read ahead is handed out behind any cursor",
        Edit(
            Pump.continues,
            "stands = self.cursor == after or self._gave_behind(after)",
            "stands = True",
        ),
        Edit(Pump.next, "and self.cursor != after", "and False"),
    ),
    mutant(
        "how far a stream was read does not go with a run that begins anew",
        Edit(
            Appends._following,  # pyright: ignore[reportPrivateUsage]
            "cursors=cursors",
            "cursors=before.cursors",
        ),
    ),
    mutant(
        "a batch of which nothing fits is read for ever",
        Edit(
            Batches[int].take,
            "cursors_of(run)[self._stream.name] = pack([identity, positions, *taken])",
            "if records:\n"
            "            cursors_of(run)[self._stream.name] = pack([identity, positions, *taken])",
        ),
    ),
    mutant(
        "a rewind of one partition takes the others along",
        Edit(_only, "{**now.after, **named}", "{**named}"),
    ),
    mutant(
        "rows are stored again when their append is repeated",
        Edit(
            appends._append_one,  # pyright: ignore[reportPrivateUsage]
            " and not result.repeated",
            "",
        ),
    ),
)
