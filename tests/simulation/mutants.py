"""Defects, planted one at a time, that the simulation must find: who never finds any finds none.

Where two guards stand one behind the other, taking one away changes nothing that anybody could see,
so such a mutant takes both. What is between executions, and between them and the world, is in
`mutants_between`.
"""

from typing import Final

from everlong._replay import marks
from everlong.worker._activities import ActivityRunner
from everlong.worker._appends import Appends, _with_unread  # pyright: ignore[reportPrivateUsage]
from everlong.worker._deadlines import Deadlines
from everlong.worker._judging import is_stale
from everlong.worker._keeper import RunKeeper
from everlong.worker._leaving import RunReleaser
from everlong.worker._loading import RunLoader
from everlong.worker._updates import UpdateDesk
from everlong_engine.machine import retries, takeover
from everlong_engine.operations.group_commit import GroupCommit
from everlong_engine.store.sqlite import (
    appends,
    group,
    leases,
    messages,
    rows,
    starts,
)
from tests.simulation.mutants_between import BETWEEN
from tests.simulation.mutants_held import HELD
from tests.simulation.mutants_queues import QUEUES
from tests.simulation.mutants_reset import RESETS
from tests.simulation.mutants_streams import STREAMS
from tests.simulation.planting import Edit, mutant

__all__ = ["MUTANTS"]

_BASE: Final = " AND runs.next_seq = mine.base"
_TOKEN: Final = "runs.lease_token = mine.token AND "

MUTANTS: Final = (
    # ------------------------------------------------------------------ leases, compare-and-set
    mutant(
        "an append needs no lease",
        Edit("advance_runs", _TOKEN, ""),
        Edit("close_runs", _TOKEN, ""),
    ),
    mutant(
        "an append may be any, and writes over what is there",
        Edit("advance_runs", _BASE, ""),
        Edit("close_runs", _BASE, ""),
        Edit("insert_history", "INSERT INTO", "INSERT OR REPLACE INTO"),
    ),
    mutant(
        "a claim leaves the lease's token as it was",
        Edit("claim_run", "lease_token = lease_token + 1", "lease_token = lease_token"),
        Edit("take_orphan", "lease_token = lease_token + 1", "lease_token = lease_token"),
    ),
    mutant(
        "an attempt needs no lease to be marked",
        Edit("check_lease", "lease_token = ? AND status < 10", "? IS NOT NULL"),
    ),
    # ----------------------------------------------------------------------------- transactions
    mutant(
        "a group is no transaction",
        Edit(group.transaction, 'connection.execute("BEGIN IMMEDIATE")', "pass"),
        Edit(group.transaction, 'connection.execute("COMMIT")', "pass"),
    ),
    mutant(
        "a failed group is taken for stored",
        Edit(
            GroupCommit._repeat,  # pyright: ignore[reportPrivateUsage]
            "_hand_out([(write, on_result)], [await self._alone(write)])",
            "_hand_out([(write, on_result)], [AppendResult()])",
        ),
    ),
    mutant(
        "an append that is repeated after a lost answer is refused",
        Edit(
            appends._was_done,  # pyright: ignore[reportPrivateUsage]
            "found[0] == append.append_id",
            "False",
        ),
    ),
    # --------------------------------------------------------------------- durable, then visible
    mutant(
        "a signal is acknowledged before its commit",
        Edit(
            RunKeeper._feed,  # pyright: ignore[reportPrivateUsage]
            "run.inflight.append(step)",
            "run.inflight.append(step)\n    if one.on_done is not None:\n"
            "        one.on_done(None)\n        one.on_done = None",
        ),
    ),
    mutant(
        "an attempt begins before its mark is stored",
        Edit(
            ActivityRunner._mark_started,  # pyright: ignore[reportPrivateUsage]
            "self.mark(attempt, row, lambda: self._begin(attempt), begins=True)",
            "self.mark(attempt, row, None, begins=True)\n    self._begin(attempt)",
        ),
    ),
    mutant(
        "effects begin before their commit",
        Edit(
            RunKeeper._feed,  # pyright: ignore[reportPrivateUsage]
            "run.inflight.append(step)",
            "run.inflight.append(step)\n"
            "    for seq, decision in enumerate(decisions, step.base + 1):\n"
            "        if type(decision) is ActivityScheduled:\n"
            "            self._act(run, decision, seq)",
        ),
        Edit(
            RunKeeper.settle,
            "self._act(run, decision, seq)",
            "type(decision) is ActivityScheduled or self._act(run, decision, seq)",
        ),
    ),
    mutant(
        "an end is told before its commit",
        Edit(
            RunKeeper._feed,  # pyright: ignore[reportPrivateUsage]
            "run.inflight.append(step)",
            "run.inflight.append(step)\n"
            "    if append.closed is not None and append.next_run is None:\n"
            "        self.engine.closed(run.execution_id, run.run_id, decisions[-1])",
        ),
    ),
    # ----------------------------------------------------------------------------- timers, time
    mutant(
        "a timer fires half a second early",
        Edit(
            Deadlines._fire,  # pyright: ignore[reportPrivateUsage]
            "now_us = self._clock.now_us()",
            "now_us = self._clock.now_us() + 500_000",
        ),
        Edit(
            Deadlines._arm,  # pyright: ignore[reportPrivateUsage]
            "self._alarms.at(self._call_us, self._fire)",
            "self._alarms.at(self._call_us - 500_000, self._fire)",
        ),
    ),
    mutant(
        "a run that sleeps forgets when to wake",
        Edit(RunReleaser.evict, "self.release(run, wake_us)", "self.release(run, None)"),
    ),
    mutant(
        "history follows a clock that was set back",
        Edit(
            RunKeeper._feed,  # pyright: ignore[reportPrivateUsage]
            "max(run.last_us, self.engine.clock.now_us())",
            "self.engine.clock.now_us()",
        ),
    ),
    mutant(
        "a timer that was cancelled fires",
        Edit(is_stale, "not code.is_pending(event.timer_id)", "False"),
        Edit(
            RunKeeper._act,  # pyright: ignore[reportPrivateUsage]
            "run.timers.pop(decision.timer_id, None)",
            "pass",
        ),
    ),
    # -------------------------------------------------------------------------------- activities
    mutant(
        "an outcome is recorded twice",
        Edit(
            ActivityRunner.finish,
            "self._deliver(run, one)",
            "self._deliver(run, one)\n    self._deliver(run, Incoming(one.event))",
        ),
        Edit(is_stale, "not code.is_open(event.activity_id)", "False"),
    ),
    mutant(
        "an activity that begins at most once is repeated",
        Edit(retries.may_repeat_lost, "if options.at_most_once:", "if False:"),
    ),
    mutant(
        "one attempt more than allowed",
        Edit(
            retries.retry_failed,
            "attempt >= options.max_attempts",
            "attempt > options.max_attempts",
        ),
    ),
    mutant(
        "an attempt that may have begun on a dead worker is not counted",
        Edit(takeover._lost, "elif row.state is AttemptState.STARTED:", "elif False:"),  # pyright: ignore[reportPrivateUsage]
        Edit(
            ActivityRunner.restore,
            "newest.state is not AttemptState.STARTED",
            "True",
        ),
    ),
    mutant(
        "back-off is half as long as its policy says",
        Edit(
            retries.next_delay_us,
            "options.delay_us * options.backoff**doublings",
            "options.delay_us * options.backoff**doublings / 2",
        ),
    ),
    mutant(
        "a takeover forgets the back-off",
        Edit(
            ActivityRunner.restore,
            "self.outcomes.after_row(attempt, newest.retry_us, newest.error)",
            "self.outcomes.after_row(attempt, newest.retry_us and 0)",
        ),
    ),
    mutant(
        "an attempt outlives its step",
        Edit(
            RunLoader._restore_activities,  # pyright: ignore[reportPrivateUsage]
            "activities.cancel(run, number)",
            "pass",
        ),
        Edit(
            ActivityRunner._go_on,  # pyright: ignore[reportPrivateUsage]
            "or not run.code.is_open(number)\n",
            "\n",
        ),
    ),
    mutant(
        "whoever is at work when a worker dies is the reason",
        Edit(
            takeover._guilt,  # pyright: ignore[reportPrivateUsage]
            "return row.losses + at_work, 0",
            "return row.losses + at_work, row.strikes + at_work",
        ),
    ),
    # -------------------------------------------------------------------------------------- mail
    mutant(
        "a message that was fed stays in the inbox",
        Edit("delete_mail", "WHERE position = ?", "WHERE 0 AND position = ?"),
        Edit(appends._accept, "gone.rowcount != 1", "False"),  # pyright: ignore[reportPrivateUsage]
    ),
    mutant(
        "a request id is not looked for",
        Edit("find_request", "WHERE shard = ?", "WHERE 0 AND shard = ?"),
        Edit("user_of_request", "WHERE runs.shard = ?1", "WHERE 0 AND runs.shard = ?1"),
        Edit("insert_request", "INSERT INTO", "INSERT OR IGNORE INTO"),
    ),
    mutant(
        "the newest mail is fed first",
        Edit("mail_of", "ORDER BY position", "ORDER BY position DESC"),
    ),
    mutant(
        "a run that ends looks for no mail",
        Edit(
            appends._without_mail,  # pyright: ignore[reportPrivateUsage]
            "if append.mail_free:",
            "if append.mail_free and append.closed is None:",
        ),
    ),
    mutant(
        "a direct message overtakes the inbox",
        Edit(
            Appends.of_step,
            "mail_free=incoming.on_done is not None or (closing is not None and not continued),",
            "mail_free=closing is not None and not continued,",
        ),
    ),
    mutant(
        "a run falls asleep on its mail",
        Edit(leases.release_all, "falls_asleep and not inbox_empty", "False"),
    ),
    mutant(
        "mail that comes between a claim and its adoption is nobody's",
        Edit(RunLoader.keep_stray, "if self._claims:", "if False:"),
    ),
    mutant(
        "a message wakes nobody",
        Edit(
            messages.put_message,
            "wake_for(tx, row, message.kind, message.now_us)",
            "pass",
        ),
    ),
    mutant(
        "signals that came too late are not named",
        Edit(_with_unread, "if names else closing", "if not names else closing"),
    ),
    mutant(
        "an inbox does not outlive a checkpoint",
        Edit(
            appends._accept,  # pyright: ignore[reportPrivateUsage]
            "following = append.next_run\n",
            "following = append.next_run\n"
            '    tx.execute(SQL["forget_mail"], (append.shard, append.execution_id))\n',
        ),
    ),
    mutant(
        "an attempt begins though an append on its way has called it off",
        Edit(
            ActivityRunner._go_on,  # pyright: ignore[reportPrivateUsage]
            "or not run.code.is_open(number)\n",
            "\n",
        ),
    ),
    mutant(
        "a message puts off a run that is due",
        Edit("wake_run", "min(?1, coalesce(wake_us, ?1))", "?1"),
    ),
    # ------------------------------------------------------------------------- claims and starts
    mutant(
        "who claims back what was taken from it keeps what it had at work",
        Edit(
            RunLoader.adopt,
            "if before is not None:",
            "if before is not None and before.run_id != loaded.row.run_id:",
        ),
    ),
    mutant(
        "a claim whose answer was lost is forgotten",
        Edit(RunLoader.claiming, "self.in_doubt = True", "pass"),
    ),
    mutant(
        "an outcome is fed while its run is being loaded",
        Edit(
            RunLoader._load,  # pyright: ignore[reportPrivateUsage]
            "run.pumping = True",
            "pass",
        ),
    ),
    mutant(
        "a run that is over at once asks for no workflow id",
        Edit(
            starts._has_conditions,  # pyright: ignore[reportPrivateUsage]
            "over_at_once or conditions",
            "conditions",
        ),
    ),
    # -------------------------------------------------------------------------------- checkpoints
    mutant(
        "signals that were not received yet are lost at a checkpoint",
        Edit(
            Appends._following,  # pyright: ignore[reportPrivateUsage]
            "carried=carried",
            "carried=()",
        ),
    ),
    mutant(
        "a checkpoint begins anew with the old arguments",
        Edit(
            Appends._following,  # pyright: ignore[reportPrivateUsage]
            "arguments=arguments",
            "arguments=before.arguments",
        ),
    ),
    # ------------------------------------------------------------------------------------- updates
    mutant(
        "an update that its validator refuses is performed",
        Edit(UpdateDesk.refuses, "run.code.updates.judge(event)", "pass"),
    ),
    mutant(
        "an update that is refused stays in the inbox",
        Edit("refuse_mail", "DELETE FROM inbox", "UPDATE inbox SET position = position"),
    ),
    mutant(
        "the end of an update is not stored for its sender",
        Edit(
            appends._accept,  # pyright: ignore[reportPrivateUsage]
            "if append.answers:",
            "if False:",
        ),
    ),
    mutant(
        "an update that is sent again is performed again",
        Edit(
            rows.sent_before,
            "return row if found[0] >= least else None",
            "return None if name.startswith(chr(1)) else row",
        ),
        Edit("insert_request", "INSERT INTO", "INSERT OR REPLACE INTO"),
    ),
    # -------------------------------------------------------------------------------------- replay
    mutant(
        "a patch is answered anew at each replay",
        Edit(marks.patched, "marks = PatchMarked(name) in run.recorded", "marks = True"),
    ),
    *BETWEEN,
    *HELD,
    *QUEUES,
    *RESETS,
    *STREAMS,
)
