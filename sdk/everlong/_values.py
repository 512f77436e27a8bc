"""Values on their way into a history and back, by their type hints.

`Value` does one value (a result, a signal, an answer), `Parameters` the arguments of one call. Going in, a value is
validated (leniently: "400" does for an int), dumped to plain data and packed; coming back it is rebuilt from the same
hint. What cannot make that journey is refused where it is declared, or else where it is passed, and never later: a run
that met a value it cannot read again would be stuck.

Whoever calls gets a fresh object each time, also for defaults. So live code sees exactly what a replay sees: a tuple
without a hint has become a list, and of a model's subclass only the declared fields are left.
"""

import inspect
import types
import typing
from collections.abc import Callable, Iterator, Mapping
from ipaddress import (
    IPv4Address,
    IPv4Interface,
    IPv4Network,
    IPv6Address,
    IPv6Interface,
    IPv6Network,
)
from pathlib import PurePath
from typing import Any, Final, cast

from everlong.exceptions import (
    DefinitionError,
    InvalidArguments,
    NotSerializable,
    PayloadTooLarge,
    UndecodablePayload,
)
from everlong_engine.model.limits import PAYLOAD_BYTES_MAX
from everlong_engine.model.payload import pack, unpack
from pydantic import AnyUrl, TypeAdapter, ValidationError
from pydantic_core import MultiHostUrl, Url

__all__ = ["Parameters", "Value", "resolve_hints"]

_EXACT: Final = frozenset({int, str, float, bool, bytes, types.NoneType})
_ANY: Final = (Any, object, inspect.Parameter.empty)
_WRITTEN_AS_TEXT: Final = (
    PurePath, IPv4Address, IPv4Interface, IPv4Network, IPv6Address, IPv6Interface, IPv6Network, AnyUrl, Url, MultiHostUrl,
)  # fmt: skip


class _Missing:
    """Stands for an argument that was not passed."""


_MISSING: Final = _Missing()


class Value:
    """One value of one hint.

    `owner` is who declares it, as it reads in an error ("the result of extract"); `invalid` is what `encode` raises
    for a value that does not fit the hint.
    """

    def __init__(
        self,
        hint: object,
        *,
        owner: str,
        invalid: type[InvalidArguments | NotSerializable] = NotSerializable,
    ) -> None:
        self.hint = types.NoneType if hint in (None, typing.NoReturn, typing.Never) else hint
        self.owner = owner
        self._invalid = invalid
        self.exact = _exact_types(self.hint)
        self._plain = any(self.hint is hint for hint in _ANY)
        # Primitives need no adapter until a value has another type; building one takes 15 µs, a nested one 40.
        self._adapter = None if self.exact or self._plain else _adapter(self.hint, owner)
        self._proven = self._adapter is None

    def encode(self, value: object) -> bytes:
        """Bytes for the history. Raises NotSerializable (or `invalid`), PayloadTooLarge."""
        return pack_for(self.owner, value if type(value) in self.exact else self.dump(value))

    def decode(self, data: bytes) -> Any:
        """The value, rebuilt. Raises UndecodablePayload."""
        return self.load(unpack(data))

    def dump(self, value: object) -> object:
        """Validate, and turn into plain data that `load` takes back."""
        if self._plain or type(value) in self.exact:
            return value
        adapter = self._adapter = self._adapter or _adapter(self.hint, self.owner)
        try:
            valid: object = adapter.validator.validate_python(value)
        except ValidationError as error:
            raise self._misfit(describe(error)) from None
        except Exception as error:
            raise self._misfit(
                f"its validation failed with {type(error).__name__}: {error}"
            ) from error
        if type(valid) in self.exact:
            return valid
        try:
            # A model that was changed since it was made is not validated again, hence the "error".
            plain: object = adapter.serializer.to_python(
                valid, round_trip=True, by_alias=False, warnings="error"
            )
        except Exception as error:
            raise NotSerializable(
                f"{self.owner} cannot be stored: {_first_lines(error)}", reason=str(error)
            ) from error
        if not self._proven:
            self._prove(plain)
        return plain

    def load(self, plain: object) -> Any:
        """Rebuild the value from plain data."""
        if self._plain or type(plain) in self.exact:
            return plain
        adapter = self._adapter = self._adapter or _adapter(self.hint, self.owner)
        try:
            # Aliases and strict models are for whoever writes values by hand; what is stored stands under field names,
            # with arrays for tuples.
            return adapter.validator.validate_python(
                plain, strict=False, by_alias=True, by_name=True
            )
        except Exception as error:
            reason = (
                describe(error)
                if isinstance(error, ValidationError)
                else f"{type(error).__name__}: {error}"
            )
            raise UndecodablePayload(
                f"{self.owner} was stored, but does not fit {show(self.hint)} now: {reason}. Let the type take both "
                "forms (a default for a new field, a union for a changed one).",
                reason=reason,
            ) from error

    def _prove(self, plain: object) -> None:
        """The first value makes the whole journey: some types dump to what they do not take back."""
        try:
            self.load(unpack(pack(plain, stand_in=_as_text)))
        except UndecodablePayload as error:
            raise NotSerializable(
                f"{self.owner} cannot be read back after storing it: {error.reason}. Give {show(self.hint)} a validator "
                "that takes what its serializer gives.",
                reason=error.reason,
            ) from error
        except NotSerializable:
            return  # packing will say it, with the path
        self._proven = True

    def _misfit(self, reason: str) -> InvalidArguments | NotSerializable:
        text = f"{self.owner} must be {show(self.hint)}: {reason}"
        if self._invalid is InvalidArguments:
            return InvalidArguments(text, owner=self.owner)
        return NotSerializable(text, reason=reason)


class Parameters:
    """The parameters of one function, by name: what is stored survives a reordering, and new defaults."""

    def __init__(
        self,
        function: Callable[..., object],
        *,
        owner: str,
        hints: Mapping[str, object] | None = None,
    ) -> None:
        self.owner = owner
        self._function = function
        hints = resolve_hints(function, owner=owner) if hints is None else hints
        signature = inspect.signature(function)
        self._fields = tuple(
            _Field.of(p, hints.get(p.name, Any), owner) for p in signature.parameters.values()
        )
        self._by_name = {field.name: field for field in self._fields}
        self._bind = _binder(function, signature)
        self._extra = next(
            (field for field in self._fields if field.kind is inspect.Parameter.VAR_KEYWORD), None
        )

    def encode(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> bytes:
        """Bind as a call would, validate, pack as a map from names to values; defaults are written out."""
        try:
            values = self._bind(*args, **kwargs)
        except TypeError as error:
            raise InvalidArguments(str(error), owner=self.owner) from None
        plain: dict[str, object] = {}
        for field, value in zip(self._fields, values, strict=True):
            plain[field.name] = value if type(value) in field.exact else field.dump(value)
        return pack_for(f"the arguments of {self.owner}", plain)

    def decode(self, data: bytes) -> tuple[list[Any], dict[str, Any]]:
        """`(args, kwargs)`, ready for `function(*args, **kwargs)`; parameters that were not stored get their default."""
        plain = self._unpack(data)
        args: list[Any] = []
        kwargs: dict[str, Any] = {}
        for field in self._fields:
            stored = plain.pop(field.name, _MISSING)
            if type(stored) in field.exact:
                value: Any = stored
            else:
                value = field.fresh_default() if stored is _MISSING else field.load(stored)
            match field.kind:
                case inspect.Parameter.VAR_POSITIONAL:
                    args += value
                case inspect.Parameter.VAR_KEYWORD:
                    kwargs |= value
                case inspect.Parameter.KEYWORD_ONLY:
                    kwargs[field.name] = value
                case _:
                    args.append(value)
        if plain:
            names = ", ".join(repr(name) for name in plain)
            raise UndecodablePayload(
                f"{names}: stored for {self.owner}, which has no such parameter now. Take it back in, with a default.",
                reason=f"unknown parameters {names}",
            )
        return args, kwargs

    def merge(self, data: bytes, changes: Mapping[str, Any]) -> bytes:
        """The stored arguments with some of them changed."""
        plain = self._unpack(data)
        for name, value in changes.items():
            if (field := self._by_name.get(name)) is not None:
                plain[name] = field.dump(value)
            elif self._extra is not None:
                extra = cast("dict[str, object]", plain.setdefault(self._extra.name, {}))
                extra[name] = self._extra.value.dump(value)
            else:
                known = ", ".join(self._by_name) or "none"
                raise InvalidArguments(
                    f"{self.owner} has no parameter {name!r}; it has {known}.",
                    owner=self.owner,
                    parameter=name,
                )
        ordered = {name: plain.pop(name) for name in self._by_name if name in plain} | plain
        return pack_for(f"the arguments of {self.owner}", ordered)

    def canonical(self, data: bytes) -> bytes:
        """The same arguments as today's types would write them."""
        args, kwargs = self.decode(data)
        return self.encode(tuple(args), kwargs)

    def _unpack(self, data: bytes) -> dict[str, object]:
        plain = unpack(data)
        if type(plain) is not dict:
            raise UndecodablePayload(
                f"The arguments of {self.owner} are not a map of names.",
                reason="the arguments are not a map",
            )
        return cast("dict[str, object]", plain)


class _Field:
    """One parameter; `*args` is stored as an array and `**kwargs` as a map, under their names."""

    __slots__ = ("default", "exact", "kind", "name", "value")

    def __init__(self, name: str, kind: object, value: Value, default: object) -> None:
        self.name = name
        self.kind = kind
        self.value = value
        self.exact = value.exact
        self.default = default

    @staticmethod
    def of(parameter: inspect.Parameter, hint: object, owner: str) -> "_Field":
        value = Value(
            hint, owner=f"parameter {parameter.name!r} of {owner}", invalid=InvalidArguments
        )
        match parameter.kind:
            case inspect.Parameter.VAR_POSITIONAL:
                return _Many(parameter.name, parameter.kind, value, b"\x90")
            case inspect.Parameter.VAR_KEYWORD:
                return _Named(parameter.name, parameter.kind, value, b"\x80")
            case _:
                default = (
                    _MISSING
                    if parameter.default is inspect.Parameter.empty
                    else _encode_default(value, parameter)
                )
                return _Field(parameter.name, parameter.kind, value, default)

    def dump(self, value: object) -> object:
        if value is _MISSING:
            return unpack(cast("bytes", self.default))
        return self.value.dump(value)

    def load(self, plain: object) -> Any:
        return self.value.load(plain)

    def fresh_default(self) -> Any:
        if isinstance(self.default, bytes):
            return self.load(unpack(self.default))
        raise UndecodablePayload(
            f"{self.value.owner} has no stored value and no default. Give it a default, so that what was started "
            "before it existed can go on.",
            reason=f"no value for {self.name!r}",
        )


class _Many(_Field):
    __slots__ = ()

    def __init__(self, name: str, kind: object, value: Value, default: object) -> None:
        super().__init__(name, kind, value, default)
        self.exact = frozenset()

    def dump(self, value: object) -> object:
        return [self.value.dump(item) for item in cast("tuple[object, ...]", value)]

    def load(self, plain: object) -> Any:
        if not isinstance(plain, list):
            raise UndecodablePayload(
                f"{self.value.owner} was not stored as an array.", reason="not an array"
            )
        return [self.value.load(item) for item in cast("list[object]", plain)]


class _Named(_Field):
    __slots__ = ()

    def __init__(self, name: str, kind: object, value: Value, default: object) -> None:
        super().__init__(name, kind, value, default)
        self.exact = frozenset()

    def dump(self, value: object) -> object:
        return {
            name: self.value.dump(item) for name, item in cast("dict[str, object]", value).items()
        }

    def load(self, plain: object) -> Any:
        if not isinstance(plain, dict):
            raise UndecodablePayload(
                f"{self.value.owner} was not stored as a map.", reason="not a map"
            )
        return {
            name: self.value.load(item) for name, item in cast("dict[str, object]", plain).items()
        }


def _encode_default(value: Value, parameter: inspect.Parameter) -> bytes:
    default: object = parameter.default
    try:
        return value.encode(default)
    except (InvalidArguments, NotSerializable) as error:
        raise DefinitionError(
            f"The default of {value.owner}, {_short(default)}, does not fit: {error}. Widen the hint (for instance with "
            "`| None`), or choose another default.",
            parameter=parameter.name,
        ) from error


def _binder(
    function: Callable[..., object], signature: inspect.Signature
) -> Callable[..., tuple[object, ...]]:
    """A function with the same signature that returns its arguments.

    Python itself is the fastest binder, and its errors are the ones people know. Only parameter names go into the
    source; annotations and defaults do not.
    """
    empty = inspect.Parameter.empty
    bare = [
        p.replace(annotation=empty, default=empty if p.default is empty else _Bare())
        for p in signature.parameters.values()
    ]
    names = "".join(f"{p.name}, " for p in bare)
    source = (
        f"def binder{signature.replace(parameters=bare, return_annotation=empty)}: return ({names})"
    )
    namespace: dict[str, Any] = {"_MISSING": _MISSING}
    exec(source, namespace)
    binder = cast("types.FunctionType", namespace["binder"])
    binder.__name__ = getattr(function, "__name__", "function")
    binder.__qualname__ = binder.__name__
    return binder


class _Bare:
    """Prints as the name of the marker, in a signature."""

    def __repr__(self) -> str:
        return "_MISSING"


# --- Hints ---


def resolve_hints(
    function: Callable[..., object], *, owner: str, names: Mapping[str, object] | None = None
) -> dict[str, Any]:
    """The function's hints as objects; `names` are further ones that string hints may use. Raises DefinitionError."""
    try:
        return typing.get_type_hints(
            function, localns=dict(names) if names else None, include_extras=True
        )
    except NameError as error:
        raise DefinitionError(
            f"{owner}: the type hint {_who_says(function, error.name)}names {error.name!r}, which does not exist when the "
            "code runs. If it is imported under `if TYPE_CHECKING:`, import it in the open; if it is defined "
            "inside a function, or further down, move it up to the module's top.",
            function=owner,
            parameter=_parameter_naming(function, error.name),
        ) from error
    except Exception as error:
        raise DefinitionError(
            f"{owner}: its type hints cannot be read: {type(error).__name__}: {error}. Correct the hint.",
            function=owner,
        ) from error


def _parameter_naming(function: Callable[..., object], name: str | None) -> str | None:
    hints = cast("dict[str, object]", getattr(function, "__annotations__", {}))
    return next(
        (key for key, hint in hints.items() if isinstance(hint, str) and name and name in hint),
        None,
    )


def _who_says(function: Callable[..., object], name: str | None) -> str:
    match _parameter_naming(function, name):
        case None:
            return ""
        case "return":
            return "of its result "
        case parameter:
            return f"of parameter {parameter!r} "


def _exact_types(hint: object) -> frozenset[object]:
    """The types whose instances fit as they are: of a primitive, or of a union of primitives."""
    members = (
        typing.get_args(hint)
        if typing.get_origin(hint) in (typing.Union, types.UnionType)
        else (hint,)
    )
    try:
        return frozenset(members) if _EXACT.issuperset(members) else frozenset()
    except TypeError:  # an unhashable hint
        return frozenset()


def _adapter(hint: object, owner: str) -> TypeAdapter[Any]:
    try:
        adapter: TypeAdapter[Any] = TypeAdapter(hint)
        trouble = next(_troubles(adapter.core_schema, {}), None)
    except Exception as error:
        text = _first_lines(error)
        raise DefinitionError(
            f"{owner} has the type {show(hint)}, which cannot be rebuilt from stored data. Use plain types, a dataclass "
            f"or a pydantic BaseModel. ({text})"
        ) from error
    if trouble is not None:
        raise DefinitionError(f"{owner} has the type {show(hint)}, and {trouble}.")
    return adapter


_NO_DATA: Final = {
    "callable": "a function is no data; pass a name, and look it up where it is used",
    "is-subclass": "a class is no data; pass a name, and look it up where it is used",
    "generator": "an iterator can be read only once; use list",
}
_WITHOUT_HASH: Final = {"model", "dataclass", "typed-dict", "dict", "list", "set", "model-fields"}
_SCALAR: Final = (int, str, float, bytes, bool, types.NoneType)


def _troubles(schema: object, definitions: dict[str, object]) -> Iterator[str]:
    """What in a pydantic core schema validates well, but cannot be stored and read back."""
    if isinstance(schema, list | tuple):
        for item in cast("list[object]", schema):
            yield from _troubles(item, definitions)
        return
    if not isinstance(schema, dict):
        return
    node = cast("dict[str, object]", schema)
    if "serialization" in node:
        return  # whoever wrote a serializer knows what comes out of it
    match node.get("type"):
        case str(kind) if kind in _NO_DATA:
            yield _NO_DATA[kind]
        case "enum" if not all(
            isinstance(m.value, _SCALAR) for m in cast("list[Any]", node.get("members", []))
        ):
            yield "an Enum is stored by value, so its values must be scalars"
        case "definitions":
            for item in cast("list[dict[str, object]]", node["definitions"]):
                definitions[str(item.get("ref"))] = item
        case "set" | "frozenset" if _kind(node.get("items_schema"), definitions) in _WITHOUT_HASH:
            yield "a set of models cannot be dumped, since plain data has no hash; use list or tuple"
        case "dict" if _kind(node.get("keys_schema"), definitions) in _WITHOUT_HASH | {
            "tuple",
            "frozenset",
        }:
            yield "the keys of a map must be scalars; use a list of pairs"
        case _:
            pass
    for key, item in node.items():
        if key not in ("metadata", "default", "expected", "members"):
            yield from _troubles(item, definitions)


def _kind(schema: object, definitions: dict[str, object]) -> object:
    """The kind of a schema, seen through references and through what wraps it."""
    for _ in range(20):
        if not isinstance(schema, dict):
            return None
        node = cast("dict[str, object]", schema)
        if node.get("type") == "definition-ref":
            schema = definitions.get(str(node.get("schema_ref")))
        elif "function" in str(node.get("type")) or node.get("type") in ("nullable", "default"):
            schema = node.get("schema")
        else:
            return node.get("type")
    return None


# --- Words ---


def pack_for(owner: str, plain: object) -> bytes:
    """Pack within the size limit; errors name the owner."""
    try:
        data = pack(plain, stand_in=_as_text)
    except NotSerializable as error:
        raise NotSerializable(
            f"{owner}: {error}", path=error.path, type_name=error.type_name, reason=error.reason
        ) from None
    except PayloadTooLarge as error:
        raise PayloadTooLarge(
            what=owner, size=error.size, limit=error.limit, unit=error.unit
        ) from None
    if len(data) > PAYLOAD_BYTES_MAX:
        raise PayloadTooLarge(what=owner, size=len(data), limit=PAYLOAD_BYTES_MAX)
    return data


def _as_text(value: object) -> object:
    """Types that pydantic leaves as they are, and takes back from their text."""
    if isinstance(value, _WRITTEN_AS_TEXT):
        return str(value)
    raise TypeError


def describe(error: ValidationError) -> str:
    """What pydantic found wrong, on one line."""
    faults = error.errors(include_url=False, include_context=False)
    shown = "; ".join(
        f"{'.'.join(map(str, fault['loc'])) + ': ' if fault['loc'] else ''}{fault['msg']} (got {_short(fault['input'])})"
        for fault in faults[:5]
    )
    return shown if len(faults) <= 5 else f"{shown}; and {len(faults) - 5} more"


def show(hint: object) -> str:
    """A hint as one would write it."""
    if hint is types.NoneType:
        return "None"
    return (
        hint.__qualname__
        if isinstance(hint, type) and not typing.get_args(hint)
        else str(hint).replace("typing.", "")
    )


def _short(value: object) -> str:
    try:
        text = repr(value)
    except Exception:  # a user's __repr__ must not replace the error at hand
        text = f"a {type(value).__name__}"
    return text if len(text) <= 80 else text[:79] + "…"


def _first_lines(error: Exception) -> str:
    return " ".join(str(error).split("\n\nFor further information")[0].split())[:300]
