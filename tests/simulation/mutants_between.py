"""Defects in what executions have to do with each other, and with who answers them from outside."""

from typing import Final

from everlong.client import _subscribing
from everlong.worker._activities import ActivityRunner
from everlong.worker._appends import Appends
from everlong.worker._judging import is_stale, judged
from everlong_engine.store.sqlite import appends, links, messages, outgoing, reports, starts
from tests.simulation.planting import Edit, Mutant, mutant

__all__ = ["BETWEEN"]

BETWEEN: Final[tuple[Mutant, ...]] = (
    # ------------------------------------------------------------- children, and other executions
    mutant(
        "an append that was stored before is sent again",
        Edit(outgoing._accepted, "and not result.repeated", ""),  # pyright: ignore[reportPrivateUsage]
    ),
    mutant(
        "nobody hears of the end of what a client terminates",
        Edit(messages.terminate_run, "if any_link(tx):", "if False:"),
    ),
    mutant(
        "a child that should end with its parent lives on",
        Edit(links.ended, 'link.on_parent_close == "terminate"', "False"),
    ),
    mutant(
        "a child that should hear of its parent's end does not",
        Edit(links.ended, 'link.on_parent_close == "cancel"', "False"),
    ),
    mutant(
        "a child that ends with its parent leaves its own alone",
        Edit(links.ended, "to_do.append((child, end_seq, end_kind, end_body))", "pass"),
    ),
    mutant(
        "a child is nobody's whose parent ends in the commit of its beginning",
        Edit(
            outgoing._send,  # pyright: ignore[reportPrivateUsage]
            "append.closed is not None and append.next_run is None",
            "not row.status.is_open",
        ),
    ),
    mutant(
        "who was there before is taken for a child",
        Edit(
            outgoing._start_child,  # pyright: ignore[reportPrivateUsage]
            'one.on_parent_close if result.created else ""',
            "one.on_parent_close",
        ),
    ),
    mutant(
        "an end comes to a caller that does not wait any more",
        Edit(is_stale, "or not code.others.is_open(event)", ""),
    ),
    # ---------------------------------------------------------------------------------- approvals
    mutant(
        "a second answer to an approval is accepted",
        Edit("answer_approval", " AND answer IS NULL", ""),
        Edit(messages.answer_approval, "if answer is not None:", "if False:"),
    ),
    mutant(
        "an approval is withdrawn over its answer",
        Edit(appends._has_answers, "if approvals.forced:", "if True:"),  # pyright: ignore[reportPrivateUsage]
    ),
    mutant(
        "an answer to an approval wakes nobody",
        Edit(
            messages.answer_approval,
            'tx.execute(SQL["wake_run"], (given.now_us, row.shard, row.run_id))',
            "pass",
        ),
    ),
    # ---------------------------------------------------------------------------- answers by token
    mutant(
        "a second answer by token is taken",
        Edit(reports.put_report, "if before is not None:", "if False:"),
        Edit("insert_request", "INSERT INTO", "INSERT OR REPLACE INTO"),
    ),
    mutant(
        "an attempt that is over is answered",
        Edit(
            reports._refused,  # pyright: ignore[reportPrivateUsage]
            "None if at_work and attempt == of.attempt else NotTaken.OVER",
            "None",
        ),
    ),
    mutant(
        "what was left to others is lost with its worker",
        Edit(
            ActivityRunner.restore,
            "newest is not None and newest.state is AttemptState.ELSEWHERE",
            "False",
        ),
    ),
    mutant(
        "an answer by token wakes nobody",
        Edit(
            reports.put_report,
            'tx.execute(SQL["wake_run"], (report.now_us, report.shard, report.run_id))',
            "pass",
        ),
    ),
    # ------------------------------------------------------------------------------------ outputs
    mutant(
        "the numbers of an output begin anew with each run",
        Edit(
            Appends._following,  # pyright: ignore[reportPrivateUsage]
            "published=run.code.outputs.numbers",
            "published=()",
        ),
    ),
    mutant(
        "what is published in the first drive is not for subscribers",
        Edit(starts._insert, "items += item_values(start.first)", "pass"),  # pyright: ignore[reportPrivateUsage]
    ),
    mutant(
        "who follows looks for the end behind the items",
        Edit(
            _subscribing._next,  # pyright: ignore[reportPrivateUsage]
            "not _is_open(row)",
            "not _is_open(await _look(engine, target))",
        ),
    ),
    # ---------------------------------------------------------------------------------- on_cancel
    mutant(
        "who waits for the end of an attempt goes on before",
        Edit(
            ActivityRunner._ask_to_end,  # pyright: ignore[reportPrivateUsage]
            "attempt.interrupt()",
            'self.outcomes.ended(attempt, "stopped")',
        ),
    ),
    mutant(
        "an attempt that is abandoned is stopped",
        Edit(
            ActivityRunner.cancel,
            'attempt.scheduled.options.on_cancel == "abandon"',
            "False",
        ),
    ),
    mutant(
        "an outcome reaches who has cancelled",
        Edit(judged, "if not code.is_cancelling(event.activity_id)", "if True"),
    ),
)
