"""Type hints: read from a function, judged, and turned into pydantic adapters.

All of it happens at decoration, so that a hint that cannot carry a value through a history is an
error where it stands, and not in the middle of a run.
"""

import types
import typing
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final, cast

from pydantic import TypeAdapter, ValidationError

from everlong.exceptions import DefinitionError

__all__ = ["adapter_for", "describe", "exact_types", "is_any", "resolve_hints", "short", "show"]

_EXACT: Final = frozenset({int, str, float, bool, bytes, types.NoneType})
_REASON_CHARS_MAX: Final = 300
_FAULTS_SHOWN: Final = 5


def resolve_hints(
    function: Callable[..., object], *, owner: str, names: Mapping[str, object] | None = None
) -> dict[str, Any]:
    """The hints as objects; `names` are further ones that string hints may use.

    Raises:
        DefinitionError: a name in a hint does not exist at run time.
    """
    try:
        return typing.get_type_hints(function, localns=dict(names or {}), include_extras=True)
    except NameError as error:
        parameter = _whose_hint_names(function, error.name)
        raise DefinitionError(
            f"{owner}: the type hint{_of(parameter)} names {error.name!r}, which does not exist "
            "when the code runs. If it is imported under `if TYPE_CHECKING:`, import it in the "
            "open; if it is defined in a function or further down, move it up to the module's top.",
            function=owner,
            parameter=parameter,
        ) from error
    except Exception as error:
        raise DefinitionError(
            f"{owner}: its type hints cannot be read ({type(error).__name__}: {error}). Write "
            "hints that Python can evaluate.",
            function=owner,
        ) from error


def _whose_hint_names(function: Callable[..., object], name: str | None) -> str | None:
    hints = cast("dict[str, object]", getattr(function, "__annotations__", {}))
    return next((key for key, hint in hints.items() if name and name in str(hint)), None)


def _of(parameter: str | None) -> str:
    match parameter:
        case None:
            return ""
        case "return":
            return " of the result"
        case _:
            return f" of parameter {parameter!r}"


def is_any(hint: object) -> bool:
    """Whether a hint says nothing, so that values pass as they are."""
    return hint is Any or hint is object


def exact_types(hint: object) -> frozenset[object]:
    """Of a primitive, or a union of primitives: the types whose instances need no validation."""
    union = typing.get_origin(hint) in (typing.Union, types.UnionType)
    members = typing.get_args(hint) if union else (hint,)
    try:
        return frozenset(members) if _EXACT.issuperset(members) else frozenset()
    except TypeError:  # metadata in Annotated may have no hash
        return frozenset()


def adapter_for(hint: Any, owner: str) -> TypeAdapter[Any]:
    """An adapter for values that can be stored. Raises DefinitionError for hints that cannot."""
    try:
        adapter: TypeAdapter[Any] = TypeAdapter(hint)
        trouble = next(_troubles(adapter.core_schema, {}), None)
    except Exception as error:
        reason = " ".join(str(error).split("\n\nFor further information")[0].split())
        raise DefinitionError(
            f"{owner} has the type {show(hint)}, which cannot be rebuilt from stored data. Use "
            "plain types, a dataclass or a pydantic BaseModel, defined above the function. "
            f"(pydantic: {reason[:_REASON_CHARS_MAX]})"
        ) from error
    if trouble is not None:
        raise DefinitionError(f"{owner} has the type {show(hint)}. {trouble}.")
    return adapter


# ------------------------------------------------------ what validates well, but cannot be stored

_NO_DATA: Final = {
    "callable": "A function is no data: pass a name, and look it up where it is used",
    "is-subclass": "A class is no data: pass a name, and look it up where it is used",
    "generator": "An iterator can be read only once: use list",
}
_SET_OF_MODELS: Final = "A set of models cannot be stored, since their data has no hash: use list"
_KEYS: Final = "The keys of a map must be scalars: use a list of pairs"
_ENUM: Final = (
    "An Enum is stored by its value, and this one's values are no scalars: give it others"
)

_MODELS: Final = {"model", "dataclass", "typed-dict", "named-tuple", "dict", "list", "set"}
_SCALARS: Final = (int, str, float, bytes, types.NoneType)
_NOT_SCHEMAS: Final = {"metadata", "default", "expected", "members"}

_Node = dict[str, Any]


def _troubles(schema: object, definitions: dict[str, _Node]) -> Iterator[str]:
    """Walk over a pydantic core schema."""
    if isinstance(schema, list | tuple):
        for item in cast("list[object]", schema):
            yield from _troubles(item, definitions)
    if not isinstance(schema, dict) or "serialization" in schema:
        return  # whoever wrote a serializer knows what comes out of it
    node = cast("_Node", schema)
    if node.get("type") == "definitions":
        definitions.update({item["ref"]: item for item in node["definitions"]})
    if (trouble := _trouble(node, definitions)) is not None:
        yield trouble
    for key, item in node.items():
        if key not in _NOT_SCHEMAS:
            yield from _troubles(item, definitions)


def _trouble(node: _Node, definitions: dict[str, _Node]) -> str | None:
    match node.get("type"):
        case "callable" | "is-subclass" | "generator" as kind:
            return _NO_DATA[kind]
        case "set" | "frozenset":
            models = _MODELS - {"named-tuple"}
            return (
                _SET_OF_MODELS if _kind(node.get("items_schema"), definitions) in models else None
            )
        case "dict":
            keys = _kind(node.get("keys_schema"), definitions)
            return _KEYS if keys in _MODELS | {"tuple", "frozenset"} else None
        case "enum":
            members = cast("list[Any]", node["members"])
            return None if all(isinstance(m.value, _SCALARS) for m in members) else _ENUM
        case _:
            return None


def _kind(schema: object, definitions: dict[str, _Node]) -> object:
    """The kind of a schema, seen through references and wrappers."""
    node = cast("_Node", schema) if isinstance(schema, dict) else {}
    while node.get("type") in ("definition-ref", "nullable", "default", "definitions") or (
        "function-" in str(node.get("type"))
    ):
        reference = cast("str | None", node.get("schema_ref"))
        node = (
            definitions.get(reference, {}) if reference else cast("_Node", node.get("schema", {}))
        )
    return node.get("type")


# ------------------------------------------------------------------------------------------ words


def show(hint: object) -> str:
    """A hint as one would write it."""
    if isinstance(hint, type) and not typing.get_args(hint):
        return "None" if hint is types.NoneType else hint.__qualname__
    return str(hint).replace("typing.", "")


def describe(error: ValidationError) -> str:
    """What pydantic found wrong, on one line."""
    faults = error.errors(include_url=False, include_context=False)
    shown = "; ".join(
        f"{''.join(f'{step}: ' for step in ['.'.join(map(str, fault['loc']))] if step)}"
        f"{fault['msg']} (got {short(fault['input'])})"
        for fault in faults[:_FAULTS_SHOWN]
    )
    more = len(faults) - _FAULTS_SHOWN
    return f"{shown}; and {more} more" if more > 0 else shown


def short(value: object, chars_max: int = 80) -> str:
    """A value's repr, cut, and never an error."""
    try:
        text = repr(value)
    except Exception:  # a foreign __repr__ must not replace the error at hand
        text = f"a {type(value).__name__}"
    return text if len(text) <= chars_max else text[: chars_max - 1] + "…"
