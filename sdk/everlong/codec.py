"""Codecs: what happens to payload bytes on their way into the store and back.

    async with Client.connect("orders.db", codecs=[Compress(), Encrypt({"k1": key})]) as client:

A codec wraps bytes and knows nothing of what they mean. What it made says so in its first bytes,
so that reading never depends on what is configured now: a payload is opened by what it is, and a
store may hold plain, compressed and encrypted ones side by side.

    C1 5A 01                        zlib stream         compressed
    C1 45 01  n  key id (n bytes)   nonce  ciphertext   encrypted

C1 begins no msgpack value, hence no plain payload. The byte behind it is the codec's letter, the
third its version. Which parts of an event are payloads, and to which place each of them is bound,
is decided in `everlong._sealing`.
"""

import hmac
import os
import re
import zlib
from base64 import b64decode, urlsafe_b64encode
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, Final, NoReturn, TypeAlias, cast

from everlong.exceptions import MissingKey, TamperedPayload, UndecodablePayload
from everlong_engine.model.limits import PAYLOAD_BYTES_MAX

__all__ = ["Codec", "Compress", "Encrypt", "codecs_from_file", "new_key"]

COMPRESSED: Final = b"\xc1Z\x01"
ENCRYPTED: Final = b"\xc1E\x01"

KEY_BYTES: Final = 32
KEYS_MAX: Final = 100
UNPACKED_BYTES_MAX: Final = 2 * PAYLOAD_BYTES_MAX
"""What a payload may grow to when it is opened; beyond that nothing is compressed."""
RATIO_MAX: Final = 100
"""What shrinks more is left as it is: a few bytes must not become a flood when they are opened."""

_NONCE_BYTES: Final = 12
_TAG_BYTES: Final = 16
_KEY_ID: Final = re.compile(r"[A-Za-z0-9._-]{1,64}")
_OTHERS: Final = 0o077


class Compress:
    """Compress payloads with zlib. Small ones, and those that gain little, are left alone.

    What people get wrong: it must stand before `Encrypt`, since ciphertext does not shrink. And the
    size of what is both compressed and encrypted tells a little about its content: leave it out
    where a sender chooses one part of a payload and must not guess another.

    Args:
        level: 1 (fast) to 9 (small). The work is done on the worker's event loop.
        min_bytes: payloads below this are left alone.
    """

    def __init__(self, *, level: int = 1, min_bytes: int = 1024) -> None:
        if not 1 <= level <= 9:
            raise ValueError(f"Compress(level={level}): choose 1 to 9")
        if min_bytes < 1:
            raise ValueError(f"Compress(min_bytes={min_bytes}) must be at least 1")
        self._level = level
        self._min_bytes = min_bytes

    def __repr__(self) -> str:
        return f"Compress(level={self._level}, min_bytes={self._min_bytes})"

    def encode(self, data: bytes) -> bytes:
        """Not public: the data, compressed where that helps."""
        if not self._min_bytes <= len(data) <= UNPACKED_BYTES_MAX:
            return data
        packed = COMPRESSED + zlib.compress(data, self._level)
        if len(packed) > len(data) * 9 // 10 or len(packed) * RATIO_MAX < len(data):
            return data
        return packed


def decompress(data: bytes) -> bytes:
    """Undo `Compress`, within bounds. Every process can: it needs no key and no configuration.

    Raises:
        UndecodablePayload: it is damaged, or would grow beyond what Compress ever shrank.
    """
    limit = min(UNPACKED_BYTES_MAX, RATIO_MAX * len(data))
    stream = zlib.decompressobj()
    try:
        plain = stream.decompress(data[len(COMPRESSED) :], limit + 1)
    except zlib.error as error:
        raise UndecodablePayload(reason=f"compressed bytes are damaged: {error}") from None
    if len(plain) > limit:
        raise UndecodablePayload(reason=f"compressed bytes grow beyond {limit} bytes")
    if not stream.eof or stream.unused_data:
        raise UndecodablePayload(reason="compressed bytes are cut off, or others stand behind them")
    return plain


class Encrypt:
    """Encrypt payloads with AES-256-GCM. Needs `pip install 'everlong[encrypt]'`.

        keys = {"2026-11": os.environ["ORDERS_KEY"]}      # made once, by codec.new_key()
        Client.connect("orders.db", codecs=[Encrypt(keys)])

    A payload names its key, so keys are rotated by adding one: the active key encrypts, all of them
    decrypt, and an old one may go when the last run that used it has been deleted. Every process
    that reads or writes payloads gets the keys before one of them makes a new key the active one.

    What people get wrong: names stay readable (workflow ids, types, signals, tags), and so do
    times and sizes. Put no secrets into names.

    Args:
        keys: 32 bytes each, or their base64 text, by key ids of letters, digits, `.`, `_`, `-`.
        active: the id of the key that encrypts; the first one unless given.
        accept_plain: also read payloads that are not encrypted, for a store that was begun without
            encryption. Unless given they are refused, since whoever can write to the file could
            put them in the place of encrypted ones.

    Raises:
        ValueError: a key or an id that cannot be used. The message never holds a key.
        ImportError: the extra is not installed.
    """

    def __init__(
        self,
        keys: Mapping[str, bytes | str],
        *,
        active: str | None = None,
        accept_plain: bool = False,
    ) -> None:
        aes_gcm()
        if not 1 <= len(keys) <= KEYS_MAX:
            raise ValueError(f"Encrypt takes 1 to {KEYS_MAX} keys, not {len(keys)}")
        self._keys = {_checked_id(key_id): _key(key_id, key) for key_id, key in keys.items()}
        if len(set(self._keys.values())) < len(self._keys):
            raise ValueError("Encrypt(keys=…): two ids have the same key")
        self.active = next(iter(self._keys)) if active is None else active
        if self.active not in self._keys:
            raise ValueError(f"Encrypt(active={active!r}): there is no key of that id")
        self.accept_plain = accept_plain
        name = self.active.encode()
        self._header = ENCRYPTED + bytes((len(name),)) + name

    def __repr__(self) -> str:
        return f"<Encrypt with {self.active!r}, decrypt with {', '.join(map(repr, self._keys))}>"

    def __reduce__(self) -> NoReturn:
        raise TypeError("Encrypt holds keys, and is not pickled or copied: make a new one")

    def encode(self, data: bytes, scope: bytes, place: bytes) -> bytes:
        """Not public: ciphertext that opens at this place only.

        `scope` names a run or a workflow; each has a key of its own, derived from the given one, so
        that random nonces are far from their limit of 2^32 under any single key.
        """
        header = self._header
        nonce = os.urandom(_NONCE_BYTES)
        cipher = aes_gcm()(_scope_key(self._keys[self.active], scope))
        sealed: bytes = cipher.encrypt(nonce, data, header + place)
        return header + nonce + sealed

    def decode(self, data: bytes, scope: bytes, place: bytes) -> bytes:
        """Not public: undo `encode`.

        Raises:
            MissingKey: its key was not given.
            TamperedPayload: it was changed, or belongs to another place.
        """
        key_id, header_bytes = split_header(data)
        key = self._keys.get(key_id)
        if key is None:
            raise MissingKey(key_id=key_id)
        header, rest = data[:header_bytes], data[header_bytes:]
        cipher = aes_gcm()(_scope_key(key, scope))
        try:
            plain: bytes = cipher.decrypt(rest[:_NONCE_BYTES], rest[_NONCE_BYTES:], header + place)
        except Exception as error:  # InvalidTag, whose class would have to be imported for this.
            raise TamperedPayload(key_id=key_id) from error
        return plain


Codec: TypeAlias = Compress | Encrypt
"""What `Client.connect(codecs=…)` takes."""


def new_key() -> str:
    """A fresh key for `Encrypt`, as text. Keep it where the store is not."""
    return urlsafe_b64encode(os.urandom(KEY_BYTES)).decode()


def codecs_from_file(path: str | Path) -> list[Codec]:
    """The codecs that a TOML file describes, the same for programs and for the command line.

        compress = true
        active = "2026-11"       # the first key unless given
        accept_plain = false

        [keys]
        "2026-11" = "…"          # from new_key()
        "2025-02" = "…"

    Raises:
        ValueError: it makes no sense, or others than its owner may read it.
        OSError: it cannot be read.
    """
    import tomllib  # Few programs need it, and all would pay for it.

    path = Path(path)
    with path.open("rb") as file:
        if os.fstat(file.fileno()).st_mode & _OTHERS:
            raise ValueError(f"{path} holds keys, and others may read it: chmod 600 {path}")
        try:
            found = tomllib.load(file)
        except tomllib.TOMLDecodeError:
            # Its message may quote the file.
            raise ValueError(f"{path} is not TOML") from None
    unknown = found.keys() - {"compress", "active", "accept_plain", "keys"}
    if unknown:
        raise ValueError(f"{path}: unknown settings {', '.join(sorted(unknown))}")
    codecs: list[Codec] = [Compress()] if _flag(path, found, "compress") else []
    keys = found.get("keys")
    if keys is not None:
        codecs.append(_encryption(path, found, keys))
    return codecs


def _encryption(path: Path, found: Mapping[str, Any], keys: object) -> Encrypt:
    texts = cast("dict[str, object]", keys).values() if isinstance(keys, dict) else (None,)
    if not all(isinstance(text, str) for text in texts):
        raise ValueError(f'{path}: [keys] holds lines of the form id = "key"')
    return Encrypt(
        cast("dict[str, str]", keys),
        active=found.get("active"),
        accept_plain=_flag(path, found, "accept_plain"),
    )


def _flag(path: Path, found: Mapping[str, Any], name: str) -> bool:
    value: object = found.get(name, False)
    if not isinstance(value, bool):
        raise ValueError(f"{path}: {name} is true or false")
    return value


def in_order(codecs: Sequence[Codec]) -> tuple[Compress | None, Encrypt | None]:
    """The codecs by what they do.

    Raises:
        ValueError: two of a kind, or Compress behind Encrypt.
        TypeError: something that is no codec.
    """
    compress: Compress | None = None
    encrypt: Encrypt | None = None
    for one in codecs:
        match one:
            case Compress() if compress is None and encrypt is None:
                compress = one
            case Encrypt() if encrypt is None:
                encrypt = one
            case Compress() | Encrypt():
                raise ValueError("codecs=[Compress(), Encrypt(…)]: one of each, in this order")
            case _:  # pyright: ignore[reportUnnecessaryComparison]
                raise TypeError(f"codecs takes Compress and Encrypt, not {type(one).__name__}")
    return compress, encrypt


def split_header(data: bytes) -> tuple[str, int]:
    """The key's id, and where the nonce begins. Raises TamperedPayload."""
    at = len(ENCRYPTED)
    length = data[at] if len(data) > at else 0
    end = at + 1 + length
    key_id = data[at + 1 : end].decode("ascii", "replace")
    # Ids are shown to people: what is not one of ours must not reach a terminal.
    if len(data) < end + _NONCE_BYTES + _TAG_BYTES or not _KEY_ID.fullmatch(key_id):
        raise TamperedPayload("Encrypted bytes are cut off, or their header is damaged.")
    return key_id, end


# ------------------------------------------------------------------------------------------- keys


def _checked_id(key_id: str) -> str:
    if not _KEY_ID.fullmatch(key_id):
        raise ValueError(
            f"the key id {key_id!r}: use 1 to 64 letters, digits, dots, dashes and underscores"
        )
    return key_id


def _key(key_id: str, key: bytes | str) -> bytes:
    if isinstance(key, str):
        try:
            key = b64decode(key.strip().replace("-", "+").replace("_", "/"), validate=True)
        except ValueError:
            raise ValueError(f"the key {key_id!r} is not base64; make one with new_key()") from None
    if len(key) != KEY_BYTES:
        raise ValueError(f"the key {key_id!r} has {len(key)} bytes, not {KEY_BYTES}")
    return bytes(key)


def _scope_key(key: bytes, scope: bytes) -> bytes:
    """HMAC-SHA256 as the key derivation: one block is all that is needed."""
    return hmac.digest(key, b"everlong payload 1\0" + scope, "sha256")


@lru_cache(1)
def aes_gcm() -> Any:
    try:
        from cryptography.hazmat.primitives.ciphers.aead import AESGCM
    except ImportError as error:
        raise ImportError(
            "Encrypt needs the package cryptography: pip install 'everlong[encrypt]'"
        ) from error
    return AESGCM
