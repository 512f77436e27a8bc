"""Ids as people see them."""

from uuid import UUID

import pytest
from hypothesis import given, strategies as st

from everlong_engine.model.ids import id_from_text, id_text

IDS = st.binary(min_size=16, max_size=16)


@given(IDS)
def test_an_id_reads_as_its_uuid_and_back(identifier: bytes) -> None:
    assert id_text(identifier) == str(UUID(bytes=identifier))
    assert id_from_text(id_text(identifier)) == identifier


@given(st.binary(max_size=40).filter(lambda data: len(data) != 16))
def test_what_has_another_length_is_no_id(data: bytes) -> None:
    with pytest.raises(ValueError, match=f"16 bytes, not {len(data)}"):
        id_text(data)
