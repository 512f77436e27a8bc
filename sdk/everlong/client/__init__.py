"""The client: starts executions and talks to them, from any process."""

from everlong.client._bulk import BulkJob
from everlong.client._bulk_job import BUILT_IN
from everlong.client._bulk_order import BulkAction, BulkPreview, BulkReport, NotDone
from everlong.client._client import Client
from everlong.client._handle import WorkflowHandle
from everlong.client._moving import MoveReport, MoveStep
from everlong.client._outboxes import OutboxSummary, StoredMessage
from everlong.client._queues import LimitSummary, PoolSummary, QueueSummary
from everlong.client._resetting import Reapply
from everlong.client._subscribing import PublishedItem
from everlong.client._updates import UpdateHandle
from everlong.client._versions import VersionSummary
from everlong.client._views import (
    Attempt,
    DebouncedStarts,
    ExecutionDescription,
    ExecutionSummary,
    HistoryEvent,
    OpenApproval,
    Page,
    Pause,
    PendingActivity,
    PendingChild,
    PendingTimer,
    Repeated,
)

__all__ = [
    "BUILT_IN",
    "Attempt",
    "BulkAction",
    "BulkJob",
    "BulkPreview",
    "BulkReport",
    "Client",
    "DebouncedStarts",
    "ExecutionDescription",
    "ExecutionSummary",
    "HistoryEvent",
    "LimitSummary",
    "MoveReport",
    "MoveStep",
    "NotDone",
    "OpenApproval",
    "OutboxSummary",
    "Page",
    "Pause",
    "PendingActivity",
    "PendingChild",
    "PendingTimer",
    "PoolSummary",
    "PublishedItem",
    "QueueSummary",
    "Reapply",
    "Repeated",
    "StoredMessage",
    "UpdateHandle",
    "VersionSummary",
    "WorkflowHandle",
]
