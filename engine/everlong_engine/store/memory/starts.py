"""What a start that was not the first of its kind is answered."""

from everlong_engine.model.requests import name_of_start
from everlong_engine.model.runs import NewRun, RunRow
from everlong_engine.model.writes import StartResult
from everlong_engine.store.memory.data import MemoryData

__all__ = ["same_request", "taken"]


def same_request(data: MemoryData, run: NewRun, request_id: str) -> StartResult | None:
    """What a start with this request id was answered before."""
    for run_id in data.of_request.keys((run.namespace, run.workflow_id, request_id)):
        return taken(data.runs.rows[run_id], same_request=True)
    for run_id in sorted(data.of_workflow.keys((run.namespace, run.workflow_id)), reverse=True):
        row = data.runs.rows[run_id]
        told = data.requests.get((row.execution_id, name_of_start(request_id)))
        if told is not None:
            return StartResult(False, told, row.execution_id, row.status, same_request=True)
    return None


def taken(
    row: RunRow,
    *,
    same_request: bool = False,
    refused: bool = False,
    created: bool = False,
    repeated: bool = False,
) -> StartResult:
    return StartResult(
        created,
        row.run_id,
        row.execution_id,
        row.status,
        same_request,
        refused,
        repeated=repeated,
    )
