"""Data cannot speak to the terminal."""

import unicodedata

import pytest
from hypothesis import given, strategies as st

from everlong.cli._neutral import neutral, neutral_lines


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain", "plain"),
        ("Grüße, 東京 😀", "Grüße, 東京 😀"),
        ("\x1b]0;x\x07\x1b[2J", r"\x1b]0;x\x07\x1b[2J"),
        ("one\r\ntwo\tthree", r"one\r\ntwo\tthree"),
        ("\x7f\x9b31m\x00", r"\x7f\x9b31m\x00"),
        ("pay \u202eevil\u2066\u200f", r"pay \u202eevil\u2066\u200f"),
        ("a\u2028b\u200bc\ufeff", r"a\u2028b\u200bc\ufeff"),
        ("\U000e0041\ud800", r"\U000e0041\ud800"),
        ("[bold red]no markup[/]", "[bold red]no markup[/]"),
    ],
)
def test_dangerous_characters_are_shown_as_escapes(text: str, shown: str) -> None:
    assert neutral(text) == shown


@given(st.text())
def test_nothing_that_controls_or_reorders_is_left(text: str) -> None:
    left = {unicodedata.category(char) for char in neutral(text)}
    assert not left & {"Cc", "Cf", "Cs", "Co", "Zl", "Zp"}


def test_lines_of_a_traceback_stay_lines_and_nothing_else_does() -> None:
    assert neutral_lines("a\n\tb\r\x1b[2J\n") == ["a", r"    b\r\x1b[2J"]
