"""Filters from text: a lexer and one function per rule.

    filter      = conjunction {"or" conjunction}
    conjunction = negation {"and" negation}
    negation    = {"not"} term
    term        = "(" filter ")" | field condition
    condition   = ("=" | "==" | "!=" | "<>" | "<" | "<=" | ">" | ">=") value
                | ["not"] "in" "(" value {"," value} ")"
                | "between" value "and" value
                | "starts" "with" text
                | "is" ["not"] ("set" | "null")
    field       = "status" | "type" | "workflow" | "id" | "queue" | "started" | "closed"
                | "tag." name
    value       = text | number | "true" | "false"
    text        = "'" {any character; ' is written ''} "'", or the same with "

Words may be written large; names of tags may not. `x between a and b` is `(x >= a and x <= b)`, and
`x is null` is `not x is set`. What is wrong is told with its place. Source of the method: recursive
descent, as in any book on compilers; the depth and the number of comparisons are bounded first.
"""

import re
from datetime import datetime
from math import isfinite
from typing import Final

from msgspec import Struct

from everlong_engine.model.errors import InvalidFilter
from everlong_engine.model.filters import (
    FIELDS,
    STATUSES,
    Among,
    And,
    AnyField,
    Begins,
    Compare,
    Field,
    Filter,
    IsSet,
    Not,
    Op,
    Or,
    TagField,
)
from everlong_engine.model.limits import FILTER_CHARS_MAX, FILTER_DEPTH_MAX, FILTER_VALUES_MAX
from everlong_engine.model.tags import TagKind, TagValue, is_tag_name, read_instant

__all__ = ["parse_field", "parse_filter"]

_TOKEN: Final = re.compile(
    r"""\s*(?:
    (?P<text>'(?:[^']|'')*'|"(?:[^"]|"")*")
    |(?P<number>[+-]?(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][+-]?[0-9]+)?(?![A-Za-z0-9_.-]))
    |(?P<word>[A-Za-z_][A-Za-z0-9_.-]*)
    |(?P<sign><=|>=|<>|!=|==|=|<|>|\(|\)|,)
    |(?P<end>\Z)
    )""",
    re.VERBOSE,
)
_OPS: Final = {"==": Op.EQ, "<>": Op.NE, **{one.value: one for one in Op}}
_WORDS: Final = frozenset(
    {"and", "between", "false", "in", "is", "not", "null", "or", "set", "starts", "true", "with"}
)
_NAMES: Final = {**{name: name for name in FIELDS}, "workflow": "type"}
_DIGITS_MAX: Final = 100
_INT_MAX: Final = (1 << 63) - 1


class _Token(Struct, frozen=True):
    kind: str
    text: str
    at: int

    @property
    def word(self) -> str:
        """What it is, if it is a word or a sign."""
        return self.text.lower() if self.kind in ("word", "sign") else ""


def parse_filter(text: str) -> Filter:
    """The tree of a text.

    Raises:
        InvalidFilter: it says where, and what would do there.
    """
    parser = _Parser(text)
    tree = parser.either(0)
    parser.require_end()
    return tree


def parse_field(text: str) -> AnyField:
    """One field by its name: `status`, `tag.customer`. Raises InvalidFilter."""
    parser = _Parser(text)
    field = parser.field()
    parser.require_end()
    return field


class _Parser:
    def __init__(self, text: str) -> None:
        if len(text) > FILTER_CHARS_MAX:
            raise InvalidFilter(
                f"the filter has {len(text)} characters, more than {FILTER_CHARS_MAX}", position=0
            )
        self._text = text
        self._tokens = self._scan()
        self._at = 0
        self._values = 0

    def _scan(self) -> list[_Token]:
        tokens: list[_Token] = []
        at = 0
        while not tokens or tokens[-1].kind != "end":
            found = _TOKEN.match(self._text, at)
            if found is None:
                at += len(self._text[at:]) - len(self._text[at:].lstrip())
                raise self._refuse_character(at)
            kind = found.lastgroup or "end"
            tokens.append(_Token(kind, found[kind], found.start(kind)))
            at = found.end()
        return tokens

    def _refuse_character(self, at: int) -> InvalidFilter:
        char = self._text[at]
        if char in "'\"":
            return self._fail(at, f"a text that begins with {char} must end with {char}")
        if char.isdigit() or char in "+-.":
            return self._fail(at, "this is no number; a date, or any text, stands in quotes")
        return self._fail(at, f"{char!a} means nothing here; a text stands in quotes")

    # -------------------------------------------------------------------------------- the rules

    def either(self, depth: int) -> Filter:
        parts = [self._both(depth)]
        while self._take("or"):
            parts.append(self._both(depth))
        return parts[0] if len(parts) == 1 else Or(tuple(parts))

    def _both(self, depth: int) -> Filter:
        parts = [self._negation(depth)]
        while self._take("and"):
            parts.append(self._negation(depth))
        return parts[0] if len(parts) == 1 else And(tuple(parts))

    def _negation(self, depth: int) -> Filter:
        here = self._next
        if depth > FILTER_DEPTH_MAX:
            raise self._fail(
                here.at, f"parentheses and nots are nested deeper than {FILTER_DEPTH_MAX}"
            )
        if self._take("not"):
            return Not(self._negation(depth + 1))
        if self._take("("):
            tree = self.either(depth + 1)
            if not self._take(")"):
                raise self._expected("and, or, or )")
            return tree
        return self._condition(self.field())

    def field(self) -> AnyField:
        token = self._next
        lower = token.text.lower()
        if token.kind != "word" or lower in _WORDS:
            raise self._expected("a field: " + ", ".join((*FIELDS, "tag.NAME")))
        self._at += 1
        if lower in _NAMES:
            return Field(_NAMES[lower])
        prefix, dot, name = token.text.partition(".")
        if prefix.lower() == "tag" and dot:
            if not is_tag_name(name):
                raise self._fail(token.at, f"{name!a:.80} cannot be the name of a tag")
            return TagField(name)
        fields = ", ".join((*FIELDS, "tag.NAME"))
        raise self._fail(token.at, f"there is no field {token.text!a:.80}; choose one of {fields}")

    def _condition(self, field: AnyField) -> Filter:
        token = self._next
        if token.word in _OPS:
            self._at += 1
            op = _OPS[token.word]
            if field == Field("status") and op not in (Op.EQ, Op.NE):
                raise self._fail(
                    token.at, "statuses have no order; compare them with = or !=, or use in"
                )
            return Compare(field, op, self._value(field))
        if self._take("is"):
            negated = self._take("not")
            if self._take("null"):
                return IsSet(field) if negated else Not(IsSet(field))
            if self._take("set"):
                return Not(IsSet(field)) if negated else IsSet(field)
            raise self._expected("set or null")
        if self._take("between"):
            if field == Field("status"):
                raise self._fail(token.at, "statuses have no order; use in")
            least = self._value(field)
            if not self._take("and"):
                raise self._expected("and")
            return And((Compare(field, Op.GE, least), Compare(field, Op.LE, self._value(field))))
        if self._take("starts"):
            return self._begins(field, token)
        negated = self._take("not")
        if self._take("in"):
            return Among(field, self._list(field), negated)
        raise self._expected(
            "in" if negated else "=, !=, <, <=, >, >=, in, between, starts with, or is"
        )

    def _begins(self, field: AnyField, token: _Token) -> Begins:
        if not self._take("with"):
            raise self._expected("with")
        if isinstance(field, Field) and (FIELDS[field.name] is not TagKind.TEXT):
            raise self._fail(token.at, f"{field.name} is an instant, and starts with nothing")
        if field == Field("status"):
            raise self._fail(token.at, "compare a status with = or !=, or use in")
        here = self._next
        prefix = self._any_value()
        if not isinstance(prefix, str):
            raise self._fail(here.at, "only texts start with something; put it in quotes")
        return Begins(field, prefix)

    def _list(self, field: AnyField) -> tuple[TagValue, ...]:
        if not self._take("("):
            raise self._expected("(")
        values = [self._value(field)]
        while self._take(","):
            values.append(self._value(field))
        if not self._take(")"):
            raise self._expected(", or )")
        return tuple(values)

    # -------------------------------------------------------------------------------- the values

    def _value(self, field: AnyField) -> TagValue:
        """A value that the field can be compared with."""
        token = self._next
        value = self._any_value()
        if isinstance(field, TagField):
            return value
        if not isinstance(value, str):
            what = "a date" if FIELDS[field.name] is TagKind.INSTANT else "a text"
            raise self._fail(token.at, f"{field.name} is compared with {what} in quotes")
        if FIELDS[field.name] is TagKind.INSTANT:
            return self._instant(field.name, token, value)
        if field.name == "status" and value not in STATUSES:
            raise self._fail(
                token.at, f"there is no status {value!a:.80}; choose one of {', '.join(STATUSES)}"
            )
        return value

    def _instant(self, name: str, token: _Token, text: str) -> datetime:
        found = read_instant(text)
        if found is None:
            raise self._fail(
                token.at,
                f"{name} is compared with a date from 1970 on, such as '2026-11-01' or "
                "'2026-11-01T09:30:00Z' (UTC unless a zone is given)",
            )
        return found[0]

    def _any_value(self) -> TagValue:
        token = self._next
        if token.word in ("true", "false"):
            value: TagValue = token.word == "true"
        elif token.kind == "text":
            value = self._unquoted(token)
        elif token.kind == "number":
            value = self._number(token)
        else:
            raise self._expected("a value: a text in quotes, a number, true or false")
        self._at += 1
        self._values += 1
        if self._values > FILTER_VALUES_MAX:
            raise self._fail(
                token.at, f"the filter compares with more than {FILTER_VALUES_MAX} values"
            )
        return value

    def _unquoted(self, token: _Token) -> str:
        quote = token.text[0]
        value = token.text[1:-1].replace(quote * 2, quote)
        if any("\ud800" <= char <= "\udfff" for char in value):
            raise self._fail(
                token.at, "the text holds half a surrogate pair, which nothing can equal"
            )
        return value

    def _number(self, token: _Token) -> int | float:
        text = token.text
        if len(text) <= _DIGITS_MAX:
            if text.lstrip("+-").isdigit():
                whole = int(text)
                if -_INT_MAX - 1 <= whole <= _INT_MAX:
                    return whole
            elif isfinite(number := float(text)):
                return number
        raise self._fail(token.at, "the number is too large")

    # -------------------------------------------------------------------------------- the tokens

    @property
    def _next(self) -> _Token:
        return self._tokens[self._at]

    def _take(self, word: str) -> bool:
        if self._next.word != word:
            return False
        self._at += 1
        return True

    def require_end(self) -> None:
        if self._next.kind != "end":
            raise self._expected("and, or, or the end")

    def _expected(self, what: str) -> InvalidFilter:
        token = self._next
        found = "the filter ends" if token.kind == "end" else f"there is {token.text!a:.80}"
        return self._fail(token.at, f"{found}; expected {what}")

    def _fail(self, at: int, problem: str) -> InvalidFilter:
        return InvalidFilter(f"at character {at + 1} of the filter: {problem}", position=at)
