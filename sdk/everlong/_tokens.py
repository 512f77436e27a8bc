"""The text that names one attempt of an activity, for whoever completes it.

It holds names and numbers, no secret and no right: who can write to the store may answer. A digest
tells a token that was cut or mistyped from one that is whole.
"""

from base64 import b64decode, urlsafe_b64encode
from binascii import crc32
from dataclasses import dataclass
from typing import Any, Final

from everlong.exceptions import EverlongError, InvalidToken
from everlong_engine import pack, unpack

__all__ = ["Token", "read_token"]

_PREFIX: Final = "everlong1."
_CHARS_MAX: Final = 4096


@dataclass(frozen=True, slots=True)
class Token:
    """One attempt of an activity of a run."""

    namespace: str
    workflow_id: str
    execution_id: bytes
    run_id: bytes
    activity_id: int
    attempt: int
    at: int = 0
    """The number of the event that scheduled the activity. 0: it may have been over when the token
    was handed out, so its history must be asked."""

    def text(self) -> str:
        """As it is handed out: letters, digits, `-`, `_` and one dot."""
        data = pack([getattr(self, name) for name in self.__slots__])
        return _PREFIX + urlsafe_b64encode(data + _digest(data)).decode().rstrip("=")


def read_token(text: object) -> Token:
    """Undo `Token.text`.

    Raises:
        InvalidToken: it is none.
    """
    if not isinstance(text, str):
        raise InvalidToken(f"a token is a text, not {type(text).__name__}")
    bare = text.strip()
    if not bare.startswith(_PREFIX) or len(bare) > _CHARS_MAX:
        raise InvalidToken(f"{text!r:.80} is no token: one begins with {_PREFIX!r}")
    coded = bare.removeprefix(_PREFIX)
    try:
        data = b64decode(coded + "=" * (-len(coded) % 4), altchars=b"-_", validate=True)
        whole: Any = unpack(data[:-4]) if data[-4:] == _digest(data[:-4]) else None
    except (ValueError, EverlongError):
        whole = None
    match whole:
        case [
            str(namespace),
            str(workflow_id),
            bytes(execution),
            bytes(run),
            int(number),
            int(attempt),
            int(at),
        ]:
            return Token(namespace, workflow_id, execution, run, number, attempt, at)
        case _:
            raise InvalidToken(
                f"{text!r:.80} is damaged: hand the token on whole, as the activity got it"
            )


def _digest(data: bytes) -> bytes:
    return crc32(data).to_bytes(4, "big")
