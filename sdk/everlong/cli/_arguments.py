"""Values from the command line: `--arg name=text`, and `--json-args` for exact ones.

A text that begins with { or [ and is JSON is taken as that, if the type allows; otherwise the type
gets the text itself, so that 400 does for an int and for a str; otherwise it is tried as JSON once
more (null for an optional). Where no type is at hand, only the first rule applies, and the worker
validates what arrives.
"""

import inspect
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Annotated, Any, cast

import typer

from everlong._definitions import WorkflowDefinition
from everlong._values import Parameters
from everlong.cli._exits import Mistake
from everlong.exceptions import InvalidArguments, NotSerializable
from everlong_engine import pack

__all__ = ["Arg", "Given", "JsonArgs", "call_of", "changes_of", "given", "loose", "plain_call"]

Arg = Annotated[
    list[str] | None,
    typer.Option(
        "--arg", "-a", metavar="NAME=VALUE", help="An argument, as text; may be repeated."
    ),
]
JsonArgs = Annotated[
    str | None,
    typer.Option(metavar="JSON", help="Arguments as a JSON object: '{\"items\": [1, 2]}'."),
]

_NONE_YET = pack({})


@dataclass(frozen=True, slots=True)
class Given:
    """What was typed, by parameter."""

    texts: dict[str, str] = field(default_factory=dict[str, str])
    exact: dict[str, Any] = field(default_factory=dict[str, Any])

    def __bool__(self) -> bool:
        return bool(self.texts or self.exact)


def given(arguments: list[str] | None, json_arguments: str | None) -> Given:
    """Read both options. Raises Mistake: malformed, or a name given twice."""
    texts: dict[str, str] = {}
    for one in arguments or ():
        name, equals, text = one.partition("=")
        if not equals or not name:
            raise Mistake(f"--arg {one}: write NAME=VALUE")
        if name in texts:
            raise Mistake(f"--arg {name}=… is given twice; a list is written as {name}='[1, 2]'")
        texts[name] = text
    exact = {} if json_arguments is None else _object(json_arguments)
    both = sorted(texts.keys() & exact.keys())
    if both:
        raise Mistake(f"{both[0]} is given by --arg and by --json-args: choose one")
    return Given(texts, exact)


def _object(text: str) -> dict[str, Any]:
    try:
        value: object = json.loads(text)
    except ValueError as error:
        raise Mistake(f"--json-args is not JSON: {error}") from error
    if not isinstance(value, dict):
        raise Mistake("--json-args takes a JSON object: '{\"name\": value}'")
    return cast("dict[str, Any]", value)


def loose(text: str) -> Any:
    """A text for a type that is not known here."""
    return _container(text, text)


def _container(text: str, otherwise: Any) -> Any:
    if text.lstrip().startswith(("{", "[")):
        try:
            return json.loads(text)
        except ValueError:
            return otherwise
    return otherwise


def plain_call(values: Given) -> dict[str, Any]:
    """The keyword arguments for a workflow that is not imported here."""
    return {name: loose(text) for name, text in values.texts.items()} | values.exact


# ----------------------------------------------------------------------------- by the types


def call_of(
    definition: WorkflowDefinition, values: Given
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """`(args, kwargs)` for `client.start`, by the workflow's types.

    What may be positional is, so that a parameter called `id` is not taken for an option.

    Raises:
        InvalidArguments: a value that does not fit, an unknown name, or a missing one.
    """
    return _bound(definition.function, definition.name, changes_of(definition, values))


def changes_of(definition: WorkflowDefinition, values: Given) -> dict[str, Any]:
    """The same by name, and only what was typed. Raises InvalidArguments."""
    parameters = definition.parameters
    read = {name: _read(parameters, name, text) for name, text in values.texts.items()}
    return read | values.exact


_UNREADABLE = object()


def _read(parameters: Parameters, name: str, text: str) -> Any:
    candidates = [_container(text, _UNREADABLE), text, _json(text)]
    refusal: Exception | None = None
    for candidate in candidates:
        if candidate is _UNREADABLE:
            continue
        try:
            parameters.merge(_NONE_YET, {name: candidate})
        except (InvalidArguments, NotSerializable) as error:
            # What people meant is the text, so it is the text's refusal that they read.
            refusal = error if refusal is None or candidate is text else refusal
        else:
            return candidate
    assert refusal is not None
    raise refusal


def _json(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return _UNREADABLE


def _bound(
    function: Callable[..., Any], name: str, values: dict[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    left = dict(values)
    args: list[Any] = []
    missing: list[str] = []
    for parameter in inspect.signature(function).parameters.values():
        match parameter.kind:
            case parameter.POSITIONAL_ONLY | parameter.POSITIONAL_OR_KEYWORD:
                if parameter.name not in left and parameter.default is parameter.empty:
                    missing.append(parameter.name)
                args.append(left.pop(parameter.name, parameter.default))
            case parameter.VAR_POSITIONAL:
                args += left.pop(parameter.name, [])
            case parameter.KEYWORD_ONLY:
                if parameter.name not in left and parameter.default is parameter.empty:
                    missing.append(parameter.name)
            case _:
                left |= left.pop(parameter.name, {})
    if missing:
        example = " ".join(f"--arg {one}=…" for one in missing)
        raise InvalidArguments(f"workflow {name} needs more arguments: add {example}")
    return tuple(args), left
