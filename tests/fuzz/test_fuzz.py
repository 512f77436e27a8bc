"""The bounded part of fuzzing: every target for a moment, and hypothesis over the same ones."""

import random
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings, strategies as st

from everlong_engine.model.codec import encode_event
from everlong_engine.model.events import KINDS
from everlong_engine.model.payload import pack
from tests.fuzz import one
from tests.fuzz.__main__ import fuzz, tell
from tests.fuzz.targets import SEEDS, TARGETS
from tests.support.events import any_event

names = pytest.mark.parametrize("name", TARGETS)
scalars = st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.binary()
values = st.recursive(
    scalars, lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner), max_leaves=8
)


def test_a_fuzzer_finds_nothing_in_a_moment() -> None:
    found = [fuzz(name, 1) for name in ("event", "payload")]
    tell(found, reproduce="python -m tests.fuzz --seconds 60")
    assert not [each.finding for each in found if each.finding]
    assert all(each.times > 100 for each in found)


@names
@settings(max_examples=60, suppress_health_check=[HealthCheck.too_slow], deadline=None)
@given(data=st.binary(max_size=200))
@example(b"")
def test_any_bytes_have_an_answer(name: str, data: bytes) -> None:
    TARGETS[name](data)


@names
def test_damaged_seeds_have_an_answer(name: str) -> None:
    chance = random.Random(name)
    for _ in range(300):
        TARGETS[name](one.mutated(chance.choice(SEEDS), chance))


@settings(max_examples=100, deadline=None)
@given(found=any_event, at=st.integers(0, 400), bits=st.integers(1, 255))
def test_an_event_with_a_changed_byte_has_an_answer(found: Any, at: int, bits: int) -> None:
    code, body = encode_event(found, {})
    changed = bytearray(body)
    changed[at % len(body)] ^= bits
    TARGETS["event"](bytes([sorted(KINDS).index(code)]) + bytes(changed))


@settings(max_examples=100, deadline=None)
@given(value=values, at=st.integers(0, 400), bits=st.integers(0, 255))
def test_a_value_with_a_changed_byte_has_an_answer(value: Any, at: int, bits: int) -> None:
    try:
        changed = bytearray(pack(value))
    except (TypeError, ValueError):
        return
    changed[at % len(changed)] ^= bits
    for name in ("payload", "typed", "failure"):
        TARGETS[name](bytes(changed))


def test_the_fuzzer_notices_what_is_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    """A target that fails is a finding, and so is one that was never called."""
    found = fuzz("no such target", 1)
    assert found.times == 0
    assert "no such target" in found.finding
    assert one.executions("stat::number_of_executed_units: 123\nDone 7 runs in 1 s") == 123
