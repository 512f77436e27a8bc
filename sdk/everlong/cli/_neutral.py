"""Makes text harmless before a terminal sees it.

Workflow ids, values and error messages are data: they may hold escape sequences that retitle the
window, clear the screen or answer for the user, line breaks that fake a line of output, and marks
that turn the reading direction around. Everything that the CLI writes for people goes through
`neutral`; `--json` needs it not, since JSON escapes whatever is not ASCII.
"""

import unicodedata
from typing import Final

__all__ = ["neutral", "neutral_lines"]

# Control, format (bidi marks, zero widths), surrogates, private use, line and paragraph separators.
_HARMFUL: Final = frozenset({"Cc", "Cf", "Cs", "Co", "Zl", "Zp"})
_SHORT: Final = {"\n": r"\n", "\r": r"\r", "\t": r"\t"}


def neutral(text: str) -> str:
    r"""One line that can be printed anywhere; what is dangerous is shown as an escape.

    >>> neutral("\x1b[2Jpaid\r\n")
    '\\x1b[2Jpaid\\r\\n'
    """
    if text.isascii() and text.isprintable():
        return text
    return "".join(map(_shown, text))


def neutral_lines(text: str) -> list[str]:
    """The same for a text of several lines, such as a traceback: its own line breaks hold."""
    return [neutral(line.expandtabs(4)) for line in text.rstrip("\n").split("\n")]


def _shown(char: str) -> str:
    if unicodedata.category(char) not in _HARMFUL:
        return char
    code = ord(char)
    if char in _SHORT:
        return _SHORT[char]
    if code < 0x100:
        return f"\\x{code:02x}"
    return f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"
