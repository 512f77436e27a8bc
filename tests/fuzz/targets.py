"""What is fuzzed: each target takes bytes, and lets out only what is a defect.

A decoder may answer with a value or with its one documented error; whatever it answers, it must not
take long, and what it has decoded must be encoded and decoded to the same again.
"""

import math
import re
from collections.abc import Callable
from time import process_time
from typing import Any, Final

from everlong._failures import ExceptionRegistry, decode_failure
from everlong._sealing import Place, Sealing
from everlong._values import Value
from everlong.cli._arguments import given, plain_call
from everlong.cli._documents import document
from everlong.cli._exits import Mistake
from everlong.cli._neutral import neutral
from everlong.client._views import view_history
from everlong.codec import Compress, Encrypt, decompress
from everlong.exceptions import EverlongError, NotSerializable, PayloadError
from everlong_engine.model.codec import blob_references, decode_event, encode_event
from everlong_engine.model.errors import InvalidFilter, UndecodablePayload
from everlong_engine.model.events import KINDS, Recorded
from everlong_engine.model.failure import Failure
from everlong_engine.model.filter_text import parse_filter
from everlong_engine.model.filters import filter_text
from everlong_engine.model.payload import pack, unpack

__all__ = ["MODULES", "SEEDS", "TARGETS"]

SLOW_S: Final = 5.0
MODULES: Final = ("everlong", "everlong_engine")
"""Whose branches are counted."""

_KINDS: Final = sorted(KINDS)
_PLACE: Final = Place("default", "w", ("inbox", 0))
_CODECS: Final = Sealing([Compress(), Encrypt({"k": bytes(32)})])
_HARMFUL: Final = re.compile(
    "[\0-\x1f\x7f-\x9f\u200b-\u200f\u2028-\u202e\u2060-\u2069\ufeff\ud800-\udfff]"
)
"""Control characters, invisible ones, and those that turn the reading direction around."""
_SHAPES: Final = tuple(
    Value(hint, owner="a fuzzed value") for hint in (int, list[int], dict[str, list[str | None]])
)


def payload(data: bytes) -> None:
    """A value: bytes to a value or UndecodablePayload, and back again to equal bytes."""
    try:
        value = unpack(data)
    except UndecodablePayload:
        return
    try:
        again = pack(value)
    except NotSerializable:
        return  # Foreign bytes may say what ours never do: an unknown time zone, say.
    assert _same(unpack(again), value), "a value is another one after a round"


def event(data: bytes) -> None:
    """A stored event: an event or UndecodablePayload; people can look at it, and it is stable."""
    kind = _KINDS[data[0] % len(_KINDS)] if data else 0
    body = data[1:]
    try:
        blob_references(body)
        found = decode_event(kind, body, {})
    except UndecodablePayload:
        return
    code, stored = encode_event(found, {})
    assert code == kind
    assert _same(decode_event(code, stored, {}), found)
    document(view_history([Recorded(1, 0, found)], []))


def typed(data: bytes) -> None:
    """A payload read by the types of a workflow."""
    for shape in _SHAPES:
        try:
            shape.decode(data)
        except EverlongError:
            continue


def failure(data: bytes) -> None:
    """A failure that is rebuilt: always an exception, and never one that data has named."""
    for name in ("builtins.ValueError", "os.system", "builtins.SystemExit"):
        try:
            made = decode_failure(
                Failure(type=name, message="m", data=data), ExceptionRegistry(), strict=False
            )
        except EverlongError:
            continue
        assert isinstance(made, Exception)


def sealed(data: bytes) -> None:
    """What codecs peel off: encryption, compression, sealed texts."""
    for peel in (
        lambda: _CODECS.open_bytes(data, _PLACE, "payload"),
        lambda: decompress(data),
        lambda: _CODECS.open_text(data.decode("latin-1"), _PLACE, "reason"),
    ):
        try:
            peel()
        except PayloadError:
            continue
    _CODECS.show_text(data.decode("latin-1"), _PLACE, "reason")


def arguments(data: bytes) -> None:
    """The command line's own small grammar: NAME=VALUE and JSON."""
    text = data.decode("utf-8", "surrogateescape")
    first, _, second = text.partition("\n")
    try:
        found = plain_call(given([first], second or None))
    except Mistake:
        return
    try:
        pack(found)
    except PayloadError:
        return


def filters(data: bytes) -> None:
    """A filter of executions: a tree or InvalidFilter, and the tree's text means the same tree."""
    text = data.decode("utf-8", "surrogateescape")
    position = 0
    try:
        tree = parse_filter(text)
    except InvalidFilter as error:
        position = error.position
    else:
        assert parse_filter(filter_text(tree)) == tree, "a tree is another one after a round"
    assert 0 <= position <= len(text), "the place of an error lies outside"


def shown(data: bytes) -> None:
    """What a terminal gets to see is one line of harmless characters."""
    line = neutral(data.decode("utf-8", "surrogateescape"))
    assert not _HARMFUL.search(line), ascii(line)
    line.encode()


def _same(one: Any, other: Any) -> bool:
    """Equal, where nan is equal to nan."""
    if one == other:
        return True
    if isinstance(one, float) and isinstance(other, float):
        return math.isnan(one) and math.isnan(other)
    return repr(one) == repr(other)


def _timed(target: Callable[[bytes], None]) -> Callable[[bytes], None]:
    def timed(data: bytes) -> None:
        began = process_time()
        target(bytes(data))
        took = process_time() - began
        assert took < SLOW_S, f"{len(data)} bytes took {took:.1f} s"

    return timed


TARGETS: Final[dict[str, Callable[[bytes], None]]] = {
    one.__name__: _timed(one)
    for one in (payload, event, typed, failure, sealed, arguments, filters, shown)
}

SEEDS: Final[tuple[bytes, ...]] = (
    b"\x93\x01\x05\xc4\x01x",
    b"\x01\x93\x01\x05\xc4\x01x",
    pack({"a": [1, 2.5, "x", b"y", None, {1, 2}, frozenset({3})], "b": 1 << 80}),
    b"\xc7\x0c\x01\x07\xe9\x01\x01\x00\x00\x00\x00\x00\x00\x00\x00",
    b"\xdd\x00\x00\xff\xff" + b"\x80" * 64,
    b'name=value\n{"a": [1, 2]}',
    b"status = 'running' and not (tag.a in (1, 'x') or started > '2026-11-01')",
    Compress().encode(b"x" * 5000),
    _CODECS.seal_bytes(b"secret", _PLACE, "payload"),
)
"""What a mutator begins with."""
