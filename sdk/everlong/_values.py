"""Values on their way into a history and back, by their type hints.

`Value` does one value (a result, a signal, an answer), `Parameters` the arguments of one call.
Going in, a value is validated (leniently: "400" does for an int), dumped to plain data and packed;
coming back it is rebuilt from the same hint. What cannot make that journey is refused where it is
declared, or else where it is passed, and never later: a run could not go on past a value that it
cannot read again.

Whoever reads gets a fresh object each time, also for defaults. So live code sees exactly what a
replay sees: without a hint a tuple has become a list, and of a subclass only those fields are left
that the hint declares.
"""

import inspect
import types
import typing
from collections.abc import Callable, Mapping
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

from pydantic import AnyUrl, TypeAdapter, ValidationError
from pydantic_core import MultiHostUrl, PydanticSerializationError, Url

from everlong._hints import (
    adapter_for,
    describe,
    exact_types,
    is_any,
    resolve_hints,
    short,
    show,
)
from everlong.exceptions import (
    DefinitionError,
    InvalidArguments,
    NotSerializable,
    PayloadTooLarge,
    UndecodablePayload,
)
from everlong_engine.model.limits import PAYLOAD_BYTES_MAX
from everlong_engine.model.payload import pack, unpack

__all__ = ["Parameters", "Value", "resolve_hints", "within_limit"]

_Parameter = inspect.Parameter

_ADDRESSES: Final = (
    IPv4Address,
    IPv4Interface,
    IPv4Network,
    IPv6Address,
    IPv6Interface,
    IPv6Network,
)
_TEXTS: Final = (PurePath, AnyUrl, Url, MultiHostUrl, *_ADDRESSES)
"""Types that pydantic dumps as they are, and takes back from their text."""


class _Missing:
    """Stands for what was not passed, or not stored."""

    def __repr__(self) -> str:
        return "_MISSING"  # as it reads in the source of a binder


_MISSING: Final = _Missing()


class Value:
    """One value of one hint.

    `owner` is how it reads in an error ("the result of extract"); `invalid` is what `encode` raises
    for a value that does not fit. `deferred` leaves the hint unread until a value needs it: for
    hints that are Everlong's own, which most programs never use.
    """

    def __init__(
        self,
        hint: object,
        *,
        owner: str,
        invalid: type[InvalidArguments | NotSerializable] = NotSerializable,
        deferred: bool = False,
    ) -> None:
        self.hint = types.NoneType if hint in (None, typing.NoReturn, typing.Never) else hint
        self.owner = owner
        self.exact = exact_types(self.hint)
        if deferred and types.NoneType in typing.get_args(self.hint):
            self.exact |= {types.NoneType}  # The default, which is encoded where it is declared.
        self._invalid = invalid
        self._passes = is_any(self.hint)
        # Building an adapter takes 15 µs to 5 ms; primitives need none before an odd value comes.
        self._built: TypeAdapter[Any] | None = None
        if not self.exact and not self._passes and not deferred:
            self._built = adapter_for(self.hint, owner)
        self._proven = False

    def encode(self, value: object) -> bytes:
        """Bytes for the history.

        Raises:
            NotSerializable: it does not fit the hint (or `invalid`), or cannot be stored.
            PayloadTooLarge: it has more than 2 MB.
        """
        return pack_for(self.owner, value if type(value) in self.exact else self.dump(value))

    def decode(self, data: bytes) -> Any:
        """The value, rebuilt. Raises UndecodablePayload."""
        plain = unpack(data)
        return plain if type(plain) in self.exact else self.load(plain)

    def dump(self, value: object) -> object:
        """Validate, and turn into plain data that `load` takes back."""
        if self._passes or type(value) in self.exact:
            return value
        adapter = self._adapter()
        try:
            valid: object = adapter.validator.validate_python(value)
        except ValidationError as error:
            raise self._misfit(describe(error)) from None
        except Exception as error:
            raise self._misfit(f"validating it raised {_said(error)}") from error
        if type(valid) in self.exact:
            return valid
        return self._dump_valid(adapter, valid)

    def load(self, plain: object) -> Any:
        """Rebuild the value from plain data. Raises UndecodablePayload."""
        if self._passes or type(plain) in self.exact:
            return plain
        validate = self._adapter().validator.validate_python
        try:
            # What is stored bears the names of fields, and has arrays for tuples; aliases and
            # strict models are for those who write values by hand.
            return validate(plain, strict=False, by_alias=True, by_name=True)
        except Exception as error:
            reason = describe(error) if isinstance(error, ValidationError) else _said(error)
            raise UndecodablePayload(
                f"{self.owner} was stored, but does not fit {show(self.hint)} now: {reason}. Let "
                "the type take both forms: a default for a new field, a union for a changed one.",
                reason=reason,
            ) from error

    def _adapter(self) -> TypeAdapter[Any]:
        if self._built is None:
            self._built = adapter_for(self.hint, self.owner)
        return self._built

    def _dump_valid(self, adapter: TypeAdapter[Any], valid: object) -> object:
        dump = adapter.serializer.to_python
        try:
            # A warning means that a model was changed since it was validated; or it means nothing.
            plain: object = dump(valid, round_trip=True, by_alias=False, warnings="error")
            proven = self._proven
        except PydanticSerializationError:
            plain, proven = self._dump_anyhow(dump, valid), False
        except Exception as error:
            raise self._not_dumped(error) from error
        if not proven:
            self._prove(plain)
        return plain

    def _dump_anyhow(self, dump: Callable[..., object], valid: object) -> object:
        try:
            return dump(valid, round_trip=True, by_alias=False, warnings=False)
        except Exception as error:
            raise self._not_dumped(error) from error

    def _prove(self, plain: object) -> None:
        """Let the first value make the whole journey: some types do not take what they give."""
        data = pack_for(self.owner, plain)
        try:
            self.load(unpack(data))
        except UndecodablePayload as error:
            raise NotSerializable(
                f"{self.owner} could not be read back after storing it: {error.reason}. Pass a "
                f"valid {show(self.hint)}, and let its validation take what its serializer gives.",
                reason=error.reason,
            ) from error
        self._proven = True

    def _not_dumped(self, error: Exception) -> NotSerializable:
        reason = f"dumping it raised {_said(error)}"
        return NotSerializable(
            f"{self.owner} cannot be stored: {reason}. Correct the serializer of "
            f"{show(self.hint)}, or pass plain data.",
            reason=reason,
        )

    def _misfit(self, reason: str) -> InvalidArguments | NotSerializable:
        text = f"{self.owner} must be {show(self.hint)}: {reason}"
        if issubclass(self._invalid, InvalidArguments):
            return self._invalid(text, owner=self.owner)
        return self._invalid(text, reason=reason)


class Parameters:
    """The parameters of one function, stored by name, so that reordering them breaks nothing.

    `hints` are those of `resolve_hints`, if the caller has them already; `given` is how many of the
    first ones whoever runs the function adds; `deferred` as for `Value`.
    """

    def __init__(
        self,
        function: Callable[..., object],
        *,
        owner: str,
        hints: Mapping[str, object] | None = None,
        given: int = 0,
        deferred: bool = False,
    ) -> None:
        self.owner = owner
        hints = resolve_hints(function, owner=owner) if hints is None else hints
        signature = inspect.signature(function)
        if given:
            stored = list(signature.parameters.values())[given:]
            signature = signature.replace(parameters=stored)
        self._fields = tuple(
            _FIELDS.get(parameter.kind, _Field)(
                parameter, hints.get(parameter.name, Any), owner, deferred=deferred
            )
            for parameter in signature.parameters.values()
        )
        self._named = {field.name: field for field in self._fields if field.kind != "VAR_KEYWORD"}
        self._extra = next((f for f in self._fields if f.kind == "VAR_KEYWORD"), None)
        name: str = getattr(function, "__qualname__", "function")
        # A handler is mostly called `_`, which tells nobody anything.
        name = owner if name.rpartition(".")[2] == "_" else name
        self._bind = _binder(name, signature, self._fields)
        self._what = f"the arguments of {owner}"

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the parameters, in order."""
        return tuple(field.name for field in self._fields)

    def encode(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> bytes:
        """Bind as a call would, validate, and pack all by name, defaults written out.

        Raises:
            InvalidArguments: they do not fit the signature or a hint.
            NotSerializable, PayloadTooLarge: they cannot be stored.
        """
        try:
            values = self._bind(*args, **kwargs)
        except TypeError as error:
            raise InvalidArguments(str(error), owner=self.owner) from None
        plain: dict[str, object] = {}
        for field, value in zip(self._fields, values, strict=True):
            plain[field.name] = value if type(value) in field.exact else field.dump(value)
        return pack_for(self._what, plain)

    def decode(self, data: bytes) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """`(args, kwargs)` for `function(*args, **kwargs)`; what was not stored gets its default.

        Raises:
            UndecodablePayload: a stored name or value does not fit the function any more.
        """
        plain = self._unpack(data)
        args: list[Any] = []
        kwargs: dict[str, Any] = {}
        for field in self._fields:
            stored = plain.pop(field.name, _MISSING)
            value = stored if type(stored) in field.exact else field.load(stored)
            if field.positional:
                args.append(value)
            else:
                field.place(value, args, kwargs)
        if plain:
            names = ", ".join(map(repr, plain))
            raise UndecodablePayload(
                f"{names}: stored for {self.owner}, which has no such parameter now. Take it back "
                "in, with a default.",
                reason=f"unknown parameters: {names}",
            )
        return tuple(args), kwargs

    def merge(self, data: bytes, changes: Mapping[str, Any]) -> bytes:
        """The stored arguments with some of them changed. Raises what `encode` raises."""
        plain = self._unpack(data)
        extra = self._extra
        for name, value in changes.items():
            if name in self._named:
                plain[name] = self._named[name].dump(value)
            elif extra is not None:
                earlier = cast("dict[str, object]", plain.get(extra.name, {}))
                plain[extra.name] = earlier | {name: extra.value.dump(value)}
            else:
                known = ", ".join(self._named) or "none"
                raise InvalidArguments(
                    f"{self.owner} has no parameter {name!r}. Its parameters: {known}.",
                    owner=self.owner,
                    parameter=name,
                )
        in_order = {
            field.name: plain.pop(field.name) for field in self._fields if field.name in plain
        }
        return pack_for(self._what, in_order | plain)

    def canonical(self, data: bytes) -> bytes:
        """The same arguments as today's types and defaults write them."""
        return self.encode(*self.decode(data))

    def _unpack(self, data: bytes) -> dict[str, object]:
        plain = unpack(data)
        if type(plain) is not dict:
            raise UndecodablePayload(f"{self._what} are not a map", reason="no map of arguments")
        return cast("dict[str, object]", plain)


# ----------------------------------------------------------------------------------- one parameter


class _Field:
    """A parameter that takes one value."""

    def __init__(
        self, parameter: inspect.Parameter, hint: object, owner: str, *, deferred: bool
    ) -> None:
        self.name = parameter.name
        self.kind = parameter.kind.name
        self.positional = parameter.kind in (
            _Parameter.POSITIONAL_ONLY,
            _Parameter.POSITIONAL_OR_KEYWORD,
        )
        self.value = Value(
            hint,
            owner=f"parameter {parameter.name!r} of {owner}",
            invalid=InvalidArguments,
            deferred=deferred,
        )
        self.exact = self.value.exact
        self.default = self._encode_default(parameter)

    def _encode_default(self, parameter: inspect.Parameter) -> bytes | None:
        default: object = parameter.default
        if default is _Parameter.empty:
            return None
        try:
            return self.value.encode(default)
        except (InvalidArguments, NotSerializable, PayloadTooLarge) as error:
            raise DefinitionError(
                f"the default of {self.value.owner} ({short(default)}) cannot be used: {error} "
                "Choose another default, or widen the hint (for instance with `| None`).",
                parameter=self.name,
            ) from error

    def dump(self, value: object) -> object:
        if value is _MISSING and self.default is not None:
            return unpack(self.default)
        return self.value.dump(value)

    def load(self, stored: object) -> Any:
        if stored is not _MISSING:
            return self.value.load(stored)
        if self.default is not None:
            return self.value.load(unpack(self.default))
        raise UndecodablePayload(
            f"{self.value.owner} has neither a stored value nor a default. If it is new, give it "
            "a default, so that what was started before can go on. If it was forgotten, terminate "
            "the run and start it with it.",
            reason=f"nothing stored for {self.name!r}",
        )

    def place(self, value: Any, args: list[Any], kwargs: dict[str, Any]) -> None:
        kwargs[self.name] = value


class _Many(_Field):
    """`*args`: stored as an array under its name."""

    def __init__(
        self, parameter: inspect.Parameter, hint: object, owner: str, *, deferred: bool
    ) -> None:
        super().__init__(parameter, hint, owner, deferred=deferred)
        self.exact = frozenset[object]()

    def dump(self, value: object) -> object:
        if not isinstance(value, list | tuple):
            raise InvalidArguments(f"{self.value.owner} takes a list, not {short(value)}.")
        return [self.value.dump(item) for item in cast("list[object]", value)]

    def load(self, stored: object) -> Any:
        if stored is _MISSING:
            return []
        if not isinstance(stored, list):
            raise UndecodablePayload(
                f"{self.value.owner} is not stored as an array", reason="no array"
            )
        return [self.value.load(item) for item in cast("list[object]", stored)]

    def place(self, value: Any, args: list[Any], kwargs: dict[str, Any]) -> None:
        args += value


class _Named(_Field):
    """`**kwargs`: stored as a map under its name."""

    def __init__(
        self, parameter: inspect.Parameter, hint: object, owner: str, *, deferred: bool
    ) -> None:
        super().__init__(parameter, hint, owner, deferred=deferred)
        self.exact = frozenset[object]()

    def dump(self, value: object) -> object:
        items = cast("dict[str, object]", value).items()
        return {name: self.value.dump(item) for name, item in items}

    def load(self, stored: object) -> Any:
        if stored is _MISSING:
            return {}
        if not isinstance(stored, dict):
            raise UndecodablePayload(f"{self.value.owner} is not stored as a map", reason="no map")
        items = cast("dict[str, object]", stored).items()
        return {name: self.value.load(item) for name, item in items}

    def place(self, value: Any, args: list[Any], kwargs: dict[str, Any]) -> None:
        kwargs |= value


_FIELDS: Final[Mapping[object, type[_Field]]] = {
    _Parameter.VAR_POSITIONAL: _Many,
    _Parameter.VAR_KEYWORD: _Named,
}


def _binder(
    name: str, signature: inspect.Signature, fields: tuple[_Field, ...]
) -> Callable[..., tuple[object, ...]]:
    """A function with the same parameters that returns their values.

    Python itself is the fastest binder, and its errors are the ones that people know. Only the
    names of the parameters get into the source; defaults are objects.
    """
    empty = _Parameter.empty
    bare = [
        parameter.replace(annotation=empty, default=empty if field.default is None else _MISSING)
        for parameter, field in zip(signature.parameters.values(), fields, strict=True)
    ]
    plain = signature.replace(parameters=bare, return_annotation=empty)
    namespace: dict[str, Any] = {"_MISSING": _MISSING}
    exec(f"def bind{plain}: return ({''.join(f'{field.name}, ' for field in fields)})", namespace)
    bind: types.FunctionType = namespace["bind"]
    bind.__name__ = bind.__qualname__ = name
    defaults = {field.name: _binder_default(field) for field in fields if field.default is not None}
    if bind.__defaults__:
        positional = [field.name for field in fields if field.positional]
        bind.__defaults__ = tuple(defaults[name] for name in positional if name in defaults)
    if bind.__kwdefaults__:
        bind.__kwdefaults__ = {name: defaults[name] for name in bind.__kwdefaults__}
    return bind


def _binder_default(field: _Field) -> object:
    """A primitive itself, which nobody can change; else the marker, for a fresh one each time."""
    default = unpack(cast("bytes", field.default))
    return default if type(default) in field.exact else _MISSING


# ------------------------------------------------------------------------------------------ packing


def pack_for(owner: str, plain: object) -> bytes:
    """Pack within the size limit; errors name the owner."""
    try:
        data = pack(plain, stand_in=_as_text)
    except NotSerializable as error:
        facts = {"path": error.path, "type_name": error.type_name, "reason": error.reason}
        raise NotSerializable(f"{owner}: {error}", **facts) from None
    except PayloadTooLarge as error:
        raise PayloadTooLarge(
            what=owner, size=error.size, limit=error.limit, unit=error.unit
        ) from None
    return data if len(data) <= PAYLOAD_BYTES_MAX else within_limit(owner, data)


def within_limit(owner: str, data: bytes) -> bytes:
    if len(data) > PAYLOAD_BYTES_MAX:
        raise PayloadTooLarge(what=owner, size=len(data), limit=PAYLOAD_BYTES_MAX)
    return data


def _as_text(value: object) -> object:
    if isinstance(value, _TEXTS):
        return str(value)
    raise TypeError


def _said(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())}"[:300]
