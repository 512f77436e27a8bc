"""What a run is found by, as its events say: for whoever brings a history in as a whole. Pure."""

from collections.abc import Iterable, Mapping
from typing import Final

from everlong_engine.machine.state import tags_behind
from everlong_engine.model.codec import decode_event
from everlong_engine.model.events import CODES, RunStarted, TagsSet
from everlong_engine.model.tags import Tags

__all__ = ["tags_in"]

_TAGGING: Final = frozenset({CODES[RunStarted], CODES[TagsSet]})


def tags_in(stored: Iterable[tuple[int, bytes]], blobs: Mapping[bytes, bytes]) -> Tags:
    """Behind these events, each as (kind, body).

    Raises:
        UndecodablePayload: one of them cannot be read.
    """
    tags: Tags | None = None
    for kind, body in stored:
        if kind in _TAGGING:
            tags = tags_behind(tags, decode_event(kind, body, blobs))
    return tags or ()
