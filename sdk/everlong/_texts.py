"""Texts from outside: what a store can keep and look up."""

from typing import Final

from everlong.exceptions import InvalidArguments
from everlong_engine import is_request_id

__all__ = [
    "ID_CHARS_MAX",
    "check_request_id",
    "checked_id",
    "fault_of_name",
    "shown",
    "storable",
]

ID_CHARS_MAX: Final = 512
NAME_CHARS_MAX: Final = 200
"""Of what code declares: a name stands in every event, list and command that tells of it."""
_SHOWN_CHARS: Final = 80


def storable(text: str, name: str) -> str:
    """A terminal that is set to no UTF-8 makes texts that nothing can store or look up."""
    if not text.isascii():
        try:
            text.encode()
        except UnicodeEncodeError:
            raise InvalidArguments(
                f"{name}={text!a} holds half a surrogate pair, which UTF-8 cannot express"
            ) from None
    return text


def checked_id(workflow_id: str) -> str:
    """A text that may name an execution. Raises InvalidArguments."""
    if not isinstance(workflow_id, str):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise InvalidArguments(f"id={workflow_id!r}: a workflow id is a text")
    if not 1 <= len(workflow_id) <= ID_CHARS_MAX:
        raise InvalidArguments(f"a workflow id has 1 to {ID_CHARS_MAX} characters")
    return storable(workflow_id, "id")


def fault_of_name(name: object) -> str | None:
    """What speaks against a text as the name of a definition or a channel; None: nothing."""
    if not isinstance(name, str):
        return "is no text"
    if not name:
        return "is empty"
    if len(name) > NAME_CHARS_MAX:
        return f"has {len(name)} characters, and a name at most {NAME_CHARS_MAX}"
    if any("\ud800" <= char <= "\udfff" for char in name):
        return "holds half a surrogate pair, which nothing can store"
    if not name.isprintable():
        return "holds a control character, a line break or the like"
    return None


def shown(name: object) -> str:
    """A refused name within an error: short, and of harmless characters."""
    text = ascii(name)
    return text if len(text) <= _SHOWN_CHARS else f"{text[:_SHOWN_CHARS]}…"


def check_request_id(request_id: str | None, parameter: str = "request_id") -> None:
    if request_id is not None and not is_request_id(request_id):
        raise InvalidArguments(
            f"{parameter}={request_id!r}: give a text of 1 to 512 characters, none of them a "
            "control character"
        )
