"""Answers queries of runs that nobody drives: closed ones, and blocked ones that replay."""

from everlong._definitions import WorkflowDefinition
from everlong._interception import Hooks
from everlong._records import Records
from everlong._replay.history import replay
from everlong._replay.run import WorkflowRun
from everlong.exceptions import EverlongError, QueryFailed
from everlong.worker._versions import signals_of
from everlong_engine import LoadedRun, id_text

__all__ = ["answer_at_rest"]


def answer_at_rest(
    definition: WorkflowDefinition,
    records: Records,
    loaded: LoadedRun,
    name: str,
    arguments: bytes,
    hooks: Hooks | None,
) -> bytes:
    """The answer from a replay, of which nothing stays.

    Raises:
        QueryFailed: there is no such query, its handler raised, or the run does not replay.
    """
    code = WorkflowRun(definition, id_text(loaded.row.run_id), signals_of(definition))
    code.loop.conceals = records.conceals
    if hooks is not None:
        code.hooks = hooks
    try:
        replay(code, records.opened(loaded).history)
        return code.answer(name, arguments)
    except QueryFailed:
        raise
    except EverlongError as error:
        raise QueryFailed(
            workflow_id=loaded.row.workflow_id, query=name, reason=str(error)
        ) from error
    finally:
        code.discard()
