"""What a worker hosts: what it was given, or else what has been imported when it starts."""

from collections.abc import Iterable
from typing import Any

from everlong import registry
from everlong._definitions import ActivityDefinition, WorkflowDefinition
from everlong.activity import Activity
from everlong.client import BUILT_IN
from everlong.exceptions import DefinitionError
from everlong.workflow import Workflow

__all__ = ["hosted_activities", "hosted_workflows"]


def hosted_activities(
    activities: Iterable[Activity[Any, Any]] | None,
) -> dict[str, ActivityDefinition]:
    """What it may run for others, by name.

    Raises:
        DefinitionError: something given is not an activity.
    """
    found: dict[str, ActivityDefinition] = {}
    for one in registry.activities.values() if activities is None else activities:
        if not isinstance(one, Activity):
            raise DefinitionError(f"Worker(activities=…): {one!r} is not decorated with @activity")
        found[one.definition.name] = one.definition
    return found


def hosted_workflows(
    workflows: Iterable[Workflow[Any, Any]] | None,
) -> dict[str, WorkflowDefinition]:
    """The workflows by name, and those that are Everlong's own.

    Raises:
        DefinitionError: something given is not a workflow.
    """
    found: dict[str, WorkflowDefinition] = {}
    for one in registry.workflows.values() if workflows is None else workflows:
        if not isinstance(one, Workflow):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise DefinitionError(f"Worker(workflows=…): {one!r} is not decorated with @workflow")
        if one.definition.name in BUILT_IN:
            raise DefinitionError(f"the name {one.definition.name!r} is one of Everlong's own")
        found[one.definition.name] = one.definition
    return found | {one.definition.name: one.definition for one in BUILT_IN.values()}
