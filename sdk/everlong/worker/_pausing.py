"""What an owner does with a run that somebody has paused: nothing, until it can let go of it.

The store has the last word: it takes no append of a paused run, and no attempt begins. Attempts
that are at work go on to their ends, so the run stays in this worker's hands until then. What comes
of them waits in the inbox, where it outlives this process; with the last of them the run is handed
back. If it is resumed before, it is loaded anew and goes on here.
"""

from typing import TYPE_CHECKING

from everlong.exceptions import StoreError
from everlong.worker._owned import OUTCOMES, Incoming, OwnedRun
from everlong_engine import AppendResult, Blobs, MarkAttempts, WriteResult

if TYPE_CHECKING:
    from everlong.worker._keeper import RunKeeper

__all__ = ["RunPauser"]


class RunPauser:
    """The paused runs of one keeper."""

    def __init__(self, keeper: "RunKeeper") -> None:
        self._keeper = keeper
        keeper.activities.on_rest = self.rest

    def hold(self, run: OwnedRun) -> None:
        """It has been loaded, and its row says that it is paused."""
        local = [one for one in run.mailbox if one.position is None]
        run.mailbox.clear()
        run.held_back.clear()
        run.positions.clear()  # It all lies in the inbox, and is loaded again.
        for one in local:
            self.keep(run, one)
        self.rest(run)

    def keep(self, run: OwnedRun, one: Incoming) -> None:
        """An input of a paused run: what only this process knows goes where it is not lost."""
        if one.on_done is not None:
            self._keeper.leaving.leave_as_mail(run, one)
        elif isinstance(one.event, OUTCOMES) and one.position is None:
            # It stays here as well: should the run go on before the store has answered, nobody
            # takes its activity for an open one. Whichever comes second is stale.
            run.mailbox.append(one)
            if run.attempts and not (one.stored or one.is_tied):
                self._store(run, one)
        # A timer is armed again when the run goes on, and fires then.

    def _store(self, run: OwnedRun, one: Incoming) -> None:
        blobs: Blobs = {}
        mail = (self._keeper.records.outcome(run, one.event, blobs),)
        run.storing += 1

        def settled(result: WriteResult | StoreError) -> None:
            run.storing -= 1
            one.stored = isinstance(result, AppendResult) and result.refusal is None
            self.rest(run)

        mark = MarkAttempts(run.shard, run.run_id, run.token, (), mail=mail, blobs=blobs or None)
        self._keeper.engine.commits.add(mark, settled)

    def rest(self, run: OwnedRun) -> None:
        """Something of it has ended, or could not begin: perhaps it can be let go."""
        if run.dropped or run.loading or run.releasing:
            return
        if not run.paused:
            # The store has refused an attempt: what is so stands in the row.
            self._keeper.look_at(run.execution_id)
            return
        self._keeper.activities.hold(run)
        if not run.attempts and not run.storing:
            self._keeper.leaving.release(run, 0)
