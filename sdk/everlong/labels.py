"""Tags and memo: what an execution is found by, and what people see beside it.

Tags are few, small and typed, and searching reads them. A memo is any plain value, and searching
does not. Both belong to the execution: they are given with its start or set by its code, and stay
when it begins anew.
"""

from collections.abc import Mapping
from typing import Any

from everlong._context import RunPort, calling_frame, current_run, source_line
from everlong.exceptions import EverlongError, InvalidTag, PayloadTooLarge
from everlong_engine import TagChanges, Tags, TagValue, check_tag, check_tags, limits, literal, pack

__all__ = ["TagValue", "checked_memo", "checked_tags", "literal", "set_memo", "set_tags"]


def set_tags(
    changes: Mapping[str, TagValue | None] | None = None, /, **more: TagValue | None
) -> None:
    """Change tags of this execution; None takes one away, and the others stay. In a workflow only.

        set_tags(customer="c1", amount=9.5, urgent=None)
        set_tags({"order.id": 17})

    What people get wrong: tags are stored readable, also where payloads are encrypted, since the
    store searches them. The workflow's own are in `info().tags`.

    Raises:
        InvalidTag: a value that is no str, int, float, bool or aware datetime, one that is too
            large, a name that will not do, or more than 32 tags. Nothing was changed.
    """
    run = _run("set_tags()")
    if changes is not None and not isinstance(changes, Mapping):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise InvalidTag(f"set_tags() takes a mapping or keywords, not {changes!r:.80}")
    given: TagChanges = tuple(
        (name, None if value is None else check_tag(name, value))
        for name, value in {**(changes or {}), **more}.items()
    )
    for name, value in given:
        if value is None:
            check_tag(name, "")  # The name must do, too.
    run.labels.set_tags(run, given, source_line(calling_frame(1)))


def set_memo(value: Any) -> None:
    """Put a value beside this execution, for people and programs that look. In a workflow only.

        set_memo({"step": "packing", "left": 3})

    It takes the place of the one before; `handle.describe().memo` shows it, also where the
    workflow's code is not known. It is encrypted where payloads are.

    Raises:
        NotSerializable, PayloadTooLarge: it is no plain data, or over 64 KB.
    """
    run = _run("set_memo()")
    run.labels.set_memo(run, checked_memo(value), source_line(calling_frame(1)))


def _run(name: str) -> RunPort:
    run = current_run()
    if run is None:
        raise EverlongError(f"{name} can only be called inside a running workflow")
    return run


def checked_tags(tags: Mapping[str, TagValue] | None) -> Tags:
    """Those of a start. Raises InvalidTag."""
    if tags is None:
        return ()
    if not isinstance(tags, Mapping):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise InvalidTag(f"tags={tags!r:.80}: give a mapping of names to values")
    return check_tags(tags)


def checked_memo(value: Any) -> bytes:
    """A memo as it is stored; None is none. Raises NotSerializable, PayloadTooLarge."""
    if value is None:
        return b""
    memo = pack(value)
    if len(memo) > limits.MEMO_BYTES_MAX:
        raise PayloadTooLarge(what="the memo", size=len(memo), limit=limits.MEMO_BYTES_MAX)
    return memo
