"""Codecs on bytes: round trips, bounds, rotation, and what they refuse."""

import copy
import pickle
import zlib
from pathlib import Path

import pytest
from hypothesis import given, strategies as st

from everlong.codec import (
    COMPRESSED,
    RATIO_MAX,
    UNPACKED_BYTES_MAX,
    Compress,
    Encrypt,
    codecs_from_file,
    decompress,
    in_order,
    new_key,
)
from everlong.exceptions import MissingKey, TamperedPayload, UndecodablePayload

KEY, OTHER = new_key(), new_key()
ONE = Encrypt({"k1": KEY})


@given(st.binary(max_size=5_000), st.binary(max_size=40), st.binary(max_size=40))
def test_what_is_encrypted_comes_back_and_is_never_the_same_twice(
    data: bytes, scope: bytes, place: bytes
) -> None:
    sealed = ONE.encode(data, scope, place)
    assert ONE.decode(sealed, scope, place) == data
    assert sealed != ONE.encode(data, scope, place)
    assert len(data) < 8 or data not in sealed


@given(st.binary(max_size=200), st.binary(max_size=10), st.binary(max_size=10))
def test_a_ciphertext_opens_in_its_place_only(data: bytes, scope: bytes, place: bytes) -> None:
    sealed = ONE.encode(data, scope, place)
    with pytest.raises(TamperedPayload):
        ONE.decode(sealed, scope, place + b"x")
    with pytest.raises(TamperedPayload):
        ONE.decode(sealed, scope + b"x", place)


@given(st.binary(max_size=60), st.data())
def test_any_change_of_any_byte_is_found(data: bytes, choice: st.DataObject) -> None:
    sealed = bytearray(ONE.encode(data, b"run", b"place"))
    at = choice.draw(st.integers(3, len(sealed) - 1))
    sealed[at] ^= choice.draw(st.integers(1, 255))
    with pytest.raises((TamperedPayload, MissingKey)):
        ONE.decode(bytes(sealed), b"run", b"place")


@given(st.binary(max_size=60), st.data())
def test_a_cut_is_found(data: bytes, choice: st.DataObject) -> None:
    sealed = ONE.encode(data, b"run", b"place")
    with pytest.raises(TamperedPayload):
        ONE.decode(sealed[: choice.draw(st.integers(0, len(sealed) - 1))], b"run", b"place")


def _repeated(part: bytes, times: int) -> bytes:
    return part * times


@given(
    st.one_of(
        st.binary(max_size=3_000),
        st.builds(_repeated, st.binary(min_size=1), st.integers(1, 5_000)),
    ),
    st.integers(1, 9),
)
def test_what_is_compressed_comes_back(data: bytes, level: int) -> None:
    packed = Compress(level=level, min_bytes=1).encode(data)
    assert len(packed) <= len(data)
    assert packed == data or decompress(packed) == data


def test_small_payloads_and_those_that_gain_little_are_left_alone() -> None:
    assert Compress().encode(b"x" * 1_023) == b"x" * 1_023
    assert Compress().encode(b"xy" * 600).startswith(COMPRESSED)
    noise = b"".join(
        bytes.fromhex(f"{zlib.crc32(bytes([i % 256, i // 256])):08x}") for i in range(900)
    )
    assert Compress().encode(noise) == noise


@pytest.mark.parametrize(
    "bomb",
    [
        COMPRESSED + zlib.compress(b"\0" * (UNPACKED_BYTES_MAX + 1)),
        COMPRESSED + zlib.compress(b"\0" * 1_000_000),
        COMPRESSED + zlib.compress(b"\0" * 100)[:-5],
        COMPRESSED + zlib.compress(b"abc") + b"more",
        COMPRESSED + b"no zlib",
        COMPRESSED,
    ],
    ids=["too large", "too good a ratio", "cut off", "followed by more", "noise", "empty"],
)
def test_a_bomb_or_damage_is_refused_before_it_grows(bomb: bytes) -> None:
    with pytest.raises(UndecodablePayload):
        decompress(bomb)


def test_nothing_is_compressed_that_would_be_refused() -> None:
    zeros = b"\0" * 1_000_000
    assert len(zlib.compress(zeros)) * RATIO_MAX < len(zeros)
    assert Compress().encode(zeros) == zeros


def test_old_keys_decrypt_and_the_active_one_encrypts() -> None:
    old = Encrypt({"k1": KEY}).encode(b"x", b"", b"")
    both = Encrypt({"k1": KEY, "k2": OTHER}, active="k2")
    assert both.decode(old, b"", b"") == b"x"
    new = both.encode(b"y", b"", b"")
    with pytest.raises(MissingKey) as missing:
        ONE.decode(new, b"", b"")
    assert missing.value.key_id == "k2"
    with pytest.raises(TamperedPayload):
        Encrypt({"k2": KEY}).decode(new, b"", b"")  # The right id with the wrong key.


def test_a_hostile_key_id_never_reaches_a_message() -> None:
    sealed = b"\xc1E\x01\x05\x1b[2J\x07" + b"\0" * 40
    with pytest.raises(TamperedPayload) as tampered:
        ONE.decode(sealed, b"", b"")
    assert "\x1b" not in str(tampered.value)


@pytest.mark.parametrize(
    ("keys", "active"),
    [
        ({}, None),
        ({"k1": "short"}, None),
        ({"k1": b"\0" * 16}, None),
        ({"k1": "?" * 43 + "="}, None),
        ({"k 1": KEY}, None),
        ({"k" * 65: KEY}, None),
        ({"k1": KEY, "k2": KEY}, None),
        ({"k1": KEY}, "k2"),
    ],
)
def test_keys_that_cannot_be_used_are_refused_without_being_shown(
    keys: dict[str, bytes | str], active: str | None
) -> None:
    with pytest.raises(ValueError, match="key") as refused:
        Encrypt(keys, active=active)
    assert KEY not in str(refused.value)


def test_keys_are_neither_shown_nor_pickled() -> None:
    assert repr(ONE) == "<Encrypt with 'k1', decrypt with 'k1'>"
    for take in (pickle.dumps, copy.copy, copy.deepcopy):
        with pytest.raises(TypeError):
            take(ONE)


def test_codecs_stand_in_the_one_order_that_makes_sense() -> None:
    with pytest.raises(ValueError, match="in this order"):
        in_order([ONE, Compress()])
    with pytest.raises(ValueError, match="in this order"):
        in_order([ONE, ONE])
    with pytest.raises(TypeError, match="not str"):
        in_order(["k1"])  # type: ignore[list-item]


def test_without_the_extra_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    from everlong import codec

    codec.aes_gcm.cache_clear()
    monkeypatch.setitem(
        __import__("sys").modules, "cryptography.hazmat.primitives.ciphers.aead", None
    )
    try:
        with pytest.raises(ImportError, match=r"pip install 'everlong\[encrypt\]'"):
            Encrypt({"k1": KEY})
        Compress()
    finally:
        codec.aes_gcm.cache_clear()


# ------------------------------------------------------------------------------------ the file


def _file(folder: Path, text: str, mode: int = 0o600) -> Path:
    path = folder / "codecs.toml"
    path.write_text(text)
    path.chmod(mode)
    return path


def test_a_file_describes_both_codecs(tmp_path: Path) -> None:
    text = (
        f'compress = true\nactive = "b"\naccept_plain = true\n[keys]\na = "{KEY}"\nb = "{OTHER}"\n'
    )
    compress, encrypt = codecs_from_file(_file(tmp_path, text))
    assert isinstance(compress, Compress)
    assert isinstance(encrypt, Encrypt)
    assert (encrypt.active, encrypt.accept_plain) == ("b", True)


def test_a_file_that_others_may_read_is_refused(tmp_path: Path) -> None:
    path = _file(tmp_path, f'[keys]\na = "{KEY}"\n', 0o640)
    with pytest.raises(ValueError, match="chmod 600"):
        codecs_from_file(path)


@pytest.mark.parametrize(
    "text",
    [
        pytest.param(f"[keys]\na = {KEY}", id="no quotes"),
        "keys = 1",
        "[keys]\na = 1",
        "[keys]",
        "compress = 1",
        "level = 3",
    ],
)
def test_a_wrong_file_is_refused_without_quoting_it(tmp_path: Path, text: str) -> None:
    with pytest.raises(ValueError) as refused:  # noqa: PT011
        codecs_from_file(_file(tmp_path, text))
    assert KEY not in str(refused.value)
