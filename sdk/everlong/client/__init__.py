"""The client: starts executions and talks to them, from any process."""

from everlong.client._approvals import OpenApproval
from everlong.client._client import Client
from everlong.client._handle import WorkflowHandle
from everlong.client._subscribing import PublishedItem
from everlong.client._updates import UpdateHandle
from everlong.client._views import (
    Attempt,
    ExecutionDescription,
    ExecutionSummary,
    HistoryEvent,
    Page,
    PendingActivity,
    PendingChild,
    PendingTimer,
)

__all__ = [
    "Attempt",
    "Client",
    "ExecutionDescription",
    "ExecutionSummary",
    "HistoryEvent",
    "OpenApproval",
    "Page",
    "PendingActivity",
    "PendingChild",
    "PendingTimer",
    "PublishedItem",
    "UpdateHandle",
    "WorkflowHandle",
]
