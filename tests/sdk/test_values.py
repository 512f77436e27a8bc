"""Values by their hints: what a call passes is what a replay sees, and misfits are named early."""

import dataclasses
import datetime as dt
import enum
import threading
import typing
from collections import defaultdict, deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from decimal import Decimal
from ipaddress import IPv4Address
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, NamedTuple, NoReturn
from uuid import UUID

import pydantic
import pytest
from hypothesis import given, strategies as st
from pydantic import BaseModel, ConfigDict, Field, HttpUrl, computed_field, field_validator
from typing_extensions import TypedDict

from everlong._values import Parameters, Value
from everlong.exceptions import (
    DefinitionError,
    InvalidArguments,
    NotSerializable,
    PayloadTooLarge,
    UndecodablePayload,
)
from everlong_engine.model.payload import pack, unpack

if TYPE_CHECKING:
    from fractions import Fraction


class Colour(enum.Enum):
    RED = "red"
    BLUE = 2


class Planet(enum.Enum):
    EARTH = (5.97, 6.37)


class Item(BaseModel):
    name: str
    price: Decimal = Decimal("1.10")


class Order(BaseModel):
    id: int
    items: list[Item] = []
    at: dt.datetime | None = None
    tags: set[str] = set()
    colour: Colour = Colour.RED
    span: tuple[int, int] = (0, 1)


class Tree(BaseModel):
    label: str
    below: "list[Tree]" = []


class Strict(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid")
    pair: tuple[int, str]
    colour: Colour
    key: UUID


class Aliased(BaseModel):
    count: int = Field(validation_alias="Count", serialization_alias="n")

    @computed_field  # type: ignore[prop-decorator]
    @property
    def double(self) -> int:
        return self.count * 2


class ByValue(BaseModel):
    model_config = ConfigDict(use_enum_values=True)
    colour: Colour = Colour.RED


@dataclasses.dataclass(frozen=True)
class Money:
    amount: Decimal
    currency: Literal["EUR", "USD"] = "EUR"


class Point(NamedTuple):
    x: int
    y: float


class Options(TypedDict, total=False):
    depth: int
    colour: Colour


class Cat(BaseModel):
    kind: Literal["cat"] = "cat"
    lives: int = 9


class Dog(BaseModel):
    kind: Literal["dog"] = "dog"
    name: str


Pet = Annotated[Cat | Dog, Field(discriminator="kind")]
MOMENT = dt.datetime(2024, 5, 6, 7, 8, 9, 10, tzinfo=dt.timezone(dt.timedelta(hours=2)))

ROUND_TRIPS: list[tuple[Any, object]] = [
    (int, 3),
    (int, 2**70),
    (bool, True),
    (str, "ü"),
    (float, 1.5),
    (bytes, b"\xff\x00"),
    (None, None),
    (NoReturn, None),
    (int | None, None),
    (str | int, 5),
    (int | str, "5"),
    (Colour, Colour.BLUE),
    (Literal["a", 1], 1),
    (Order, Order(id=1, items=[Item(name="x")], at=MOMENT, tags={"a", "b"}, span=(3, 4))),
    (Order | None, Order(id=1)),
    (list[Order], [Order(id=1), Order(id=2, colour=Colour.BLUE)]),
    (dict[str, Order], {"a": Order(id=1)}),
    (Tree, Tree(label="a", below=[Tree(label="b", below=[Tree(label="c")])])),
    (Strict, Strict(pair=(1, "x"), colour=Colour.RED, key=UUID(int=5))),
    (Aliased, Aliased.model_validate({"Count": 3})),
    (ByValue, ByValue(colour=Colour.RED)),
    (Money, Money(Decimal("1.10"), "USD")),
    (list[Money], [Money(Decimal(1))]),
    (Point, Point(1, 2.5)),
    (Options, {"depth": 3, "colour": Colour.RED}),
    (Pet, Dog(name="Rex")),
    (list[Pet], [Dog(name="Rex"), Cat()]),
    (Path, Path("/tmp/x")),
    (set[Path], {Path("a"), Path("b")}),
    (HttpUrl, HttpUrl("https://example.com/a")),
    (IPv4Address, IPv4Address("10.0.0.1")),
    (dt.datetime, MOMENT),
    (dt.datetime, dt.datetime(2024, 1, 1)),  # noqa: DTZ001
    (dt.date, dt.date(2024, 1, 1)),
    (dt.time, dt.time(3, 4, tzinfo=dt.UTC)),
    (dt.timedelta, dt.timedelta(days=-3, microseconds=1)),
    (Decimal, Decimal("1.10")),
    (UUID, UUID(int=7)),
    (complex, 1 + 2j),
    (set[int], {1, 2}),
    (frozenset[tuple[int, str]], frozenset({(1, "a")})),
    (set[Colour], {Colour.RED, Colour.BLUE}),
    (tuple[int, ...], (1, 2)),
    (tuple[int, Order], (1, Order(id=2))),
    (deque[int], deque([1])),
    (defaultdict[str, list[int]], defaultdict(list, {"a": [1]})),
    (Sequence[int], [1, 2]),
    (Mapping[int, dt.date], {1: dt.date(2024, 1, 1)}),
    (dict[UUID, int], {UUID(int=1): 2}),
    (dict[Colour, int], {Colour.RED: 2}),
    (Annotated[int, Field(gt=0)], 3),
    (Any, {"a": [1, None, {"b": Decimal("1.5")}]}),
    (object, "x"),
    (list, [1, "a"]),
    (dict, {"a": 1}),
    (pydantic.Json[list[int]], "[1]"),
]


# Sets print in another order in each process: an id that holds one names no test twice.
@pytest.mark.parametrize(
    ("hint", "value"),
    ROUND_TRIPS,
    ids=[f"{at}-{hint}"[:60] for at, (hint, _) in enumerate(ROUND_TRIPS)],
)
def test_a_value_comes_back_as_its_hint_says(hint: Any, value: object) -> None:
    codec = Value(hint, owner="the result of f")
    back = codec.decode(codec.encode(value))
    expected = [1] if hint == pydantic.Json[list[int]] else value
    assert back == expected
    assert type(back) is type(expected)


@pytest.mark.parametrize(
    ("hint", "value", "expected"),
    [
        (int, "400", 400),
        (float, 3, 3.0),
        (bool, "yes", True),
        (Order, {"id": "5"}, Order(id=5)),
        (Money, {"amount": "1.5"}, Money(Decimal("1.5"))),
        (dt.date, "2024-01-01", dt.date(2024, 1, 1)),
        (Colour, "red", Colour.RED),
        (set[int], ["1", 2], {1, 2}),
        (Aliased, {"Count": 3}, Aliased.model_validate({"Count": 3})),
    ],
)
def test_validation_is_lenient(hint: Any, value: object, expected: object) -> None:
    codec = Value(hint, owner="the result of f")
    assert codec.decode(codec.encode(value)) == expected


def test_of_a_subclass_the_declared_fields_are_left() -> None:
    class Special(Item):
        extra: int = 3

    codec = Value(Item, owner="the result of f")
    assert type(codec.decode(codec.encode(Special(name="x")))) is Item


def test_without_a_hint_a_tuple_becomes_a_list_and_an_enum_its_value() -> None:
    codec = Value(Any, owner="the result of f")
    assert codec.decode(codec.encode({"a": (1, Colour.RED)})) == {"a": [1, "red"]}


def test_what_is_decoded_is_fresh_each_time() -> None:
    for hint in (Any, list, list[int], Order):
        codec = Value(hint, owner="the result of f")
        data = codec.encode(Order(id=1, items=[]) if hint is Order else [1])
        assert codec.decode(data) is not codec.decode(data)


def test_a_result_that_does_not_fit_is_not_serializable() -> None:
    with pytest.raises(NotSerializable) as caught:
        Value(Order, owner="the result of extract").encode({"id": "x", "span": [1]})
    assert str(caught.value) == (
        "the result of extract must be Order: id: Input should be a valid integer, unable to parse "
        "string as an integer (got 'x'); span.1: Field required (got [1])"
    )


def test_a_value_may_be_refused_as_an_argument_instead() -> None:
    with pytest.raises(
        InvalidArguments, match=r"^signal 'approve' must be int: Input should be"
    ) as e:
        Value(int, owner="signal 'approve'", invalid=InvalidArguments).encode("abc")
    assert e.value.owner == "signal 'approve'"


def test_a_model_that_was_changed_into_nonsense_is_refused_before_it_is_stored() -> None:
    codec = Value(Order, owner="the result of f")
    codec.encode(Order(id=1))
    order = Order(id=1)
    order.id = typing.cast("int", "nonsense")
    with pytest.raises(NotSerializable, match="could not be read back after storing it: id: Input"):
        codec.encode(order)


def test_a_type_that_does_not_take_what_it_gives_is_found_with_the_first_value() -> None:
    class OneWay(BaseModel):
        id: str

        @field_validator("id", mode="before")
        @classmethod
        def prefix(cls, value: str) -> str:
            if value.startswith("#"):
                raise ValueError("already has a prefix")
            return "#" + value

    codec = Value(OneWay, owner="the result of f")
    for _ in range(2):
        with pytest.raises(
            NotSerializable, match=r"could not be read back .* already has a prefix"
        ):
            codec.encode(OneWay(id="5"))


def test_errors_of_user_code_within_a_type_are_told() -> None:
    class Moody(BaseModel):
        id: int

        @pydantic.field_serializer("id")
        def dump(self, _value: int) -> int:
            raise RuntimeError("not today")

        @field_validator("id")
        @classmethod
        def check(cls, value: int) -> int:
            if value == 3:
                raise RuntimeError("never three")
            return value

    codec = Value(Moody, owner="the result of f")
    with pytest.raises(NotSerializable, match=r"dumping it raised .*not today.*Correct the serial"):
        codec.encode(Moody(id=1))
    with pytest.raises(NotSerializable, match="validating it raised RuntimeError: never three"):
        codec.encode({"id": 3})
    with pytest.raises(UndecodablePayload, match="never three"):
        codec.decode(pack({"id": 3}))


def test_what_is_stored_and_fits_no_more_tells_what_to_do() -> None:
    with pytest.raises(UndecodablePayload) as caught:
        Value(Money, owner="the result of f").decode(pack({"amount": "1", "currency": "CHF"}))
    assert str(caught.value) == (
        "the result of f was stored, but does not fit Money now: currency: Input should be 'EUR' "
        "or 'USD' (got 'CHF'). Let the type take both forms: a default for a new field, a union "
        "for a changed one."
    )


def test_a_new_field_with_a_default_reads_old_values() -> None:
    assert Value(Order, owner="r").decode(pack({"id": 1})) == Order(id=1)


def test_a_value_without_a_hint_names_what_cannot_be_stored() -> None:
    with pytest.raises(NotSerializable) as caught:
        Value(Any, owner="the result of f").encode({"order": Item(name="x")})
    assert str(caught.value).startswith(
        f"the result of f: order is a {__name__}.Item, which cannot be stored: Everlong stores"
    )
    assert caught.value.path == "order"


def test_a_value_over_2_mb_is_too_large() -> None:
    with pytest.raises(PayloadTooLarge) as caught:
        Value(str, owner="the result of f").encode("x" * 2_000_000)
    assert (caught.value.size, caught.value.limit) == (2_000_005, 2_000_000)
    assert str(caught.value).startswith(
        "the result of f holds 2000005 bytes, more than the 2000000"
    )


# -------------------------------------------------------------------------------------- hints


class Unknown:
    pass


class Old(typing.TypedDict):
    a: int


class Holder(BaseModel):
    model_config = ConfigDict(frozen=True)
    call: Callable[[], int] | None = None


@pytest.mark.parametrize(
    ("hint", "message"),
    [
        (Unknown, "the result of f has the type Unknown, which cannot be rebuilt from stored data. "
         "Use plain types, a dataclass or a pydantic BaseModel"),
        (threading.Lock, "cannot be rebuilt from stored data"),
        (list[Unknown] | None, "cannot be rebuilt from stored data"),
        (Old, "Please use `typing_extensions.TypedDict`"),
        (Callable[[int], int], "A function is no data: pass a name, and look it up where it is"),
        (Holder, "A function is no data"),
        (type[int], "A class is no data"),
        (Iterable[int], "An iterator can be read only once: use list."),
        (set[Holder], "A set of models cannot be stored, since their data has no hash: use list."),
        (list[frozenset[Money]], "A set of models cannot be stored"),
        (dict[tuple[int, int], str], "The keys of a map must be scalars: use a list of pairs."),
        (dict[Money, str], "The keys of a map must be scalars"),
        (Planet, "An Enum is stored by its value, and this one's values are no scalars"),
    ],
)  # fmt: skip
def test_a_hint_that_cannot_be_stored_is_refused_at_once(hint: Any, message: str) -> None:
    with pytest.raises(DefinitionError) as caught:
        Value(hint, owner="the result of f")
    assert message in str(caught.value)
    assert str(caught.value).startswith("the result of f has the type ")


def test_a_hint_under_type_checking_is_refused_with_the_fix() -> None:
    def scale(factor: "Fraction", by: int) -> None: ...

    with pytest.raises(DefinitionError) as caught:
        Parameters(scale, owner="scale")
    assert str(caught.value) == (
        "scale: the type hint of parameter 'factor' names 'Fraction', which does not exist when "
        "the code runs. If it is imported under `if TYPE_CHECKING:`, import it in the open; if it "
        "is defined in a function or further down, move it up to the module's top."
    )
    assert (caught.value.function, caught.value.parameter) == ("scale", "factor")


def test_a_hint_that_raises_is_refused() -> None:
    def scale(factor: Any) -> None: ...

    scale.__annotations__["factor"] = "int[3]"

    with pytest.raises(DefinitionError, match=r"scale: its type hints cannot be read \(TypeError"):
        Parameters(scale, owner="scale")


def test_a_parameter_that_cannot_be_stored_is_refused_by_name() -> None:
    async def send(message: str, lock: Unknown) -> None: ...

    with pytest.raises(DefinitionError, match=r"^parameter 'lock' of send has the type Unknown, "):
        Parameters(send, owner="send")


def test_a_default_that_does_not_fit_its_hint_is_refused() -> None:
    def send(message: str = None) -> None: ...  # type: ignore[assignment]  # noqa: RUF013  # pyright: ignore[reportArgumentType]

    with pytest.raises(DefinitionError, match=r"the default of parameter 'message' of send "):
        Parameters(send, owner="send")


def test_a_default_that_cannot_be_stored_is_refused() -> None:
    def send(message: Any = Unknown) -> None: ...

    with pytest.raises(DefinitionError, match="the default of parameter 'message' of send"):
        Parameters(send, owner="send")


# ----------------------------------------------------------------------------------- parameters


async def order_stream(url: str, max_value: int = 20, loaded: int = 0) -> None: ...


async def everything(
    first: int,
    /,
    order: Order,
    *tags: str,
    note: str | None = None,
    limits: list[int] = [1],  # noqa: B006
    **more: Decimal,
) -> None: ...


untyped: Any = eval("lambda a, b=(1, 2), *rest, c={'x': 1}: None")
untyped.__qualname__ = "untyped"


STREAM = Parameters(order_stream, owner="order_stream")
EVERYTHING = Parameters(everything, owner="everything")
UNTYPED = Parameters(untyped, owner="untyped")


def through(parameters: Parameters, *args: Any, **kwargs: Any) -> tuple[tuple[Any, ...], Any]:
    return parameters.decode(parameters.encode(args, kwargs))


def test_arguments_are_bound_validated_and_rebuilt() -> None:
    assert through(STREAM, "u", max_value="400") == (("u", 400, 0), {})
    assert through(EVERYTHING, "1", {"id": 2}, "a", "b", note="n", x="1.5") == (
        (1, Order(id=2), "a", "b"),
        {"note": "n", "limits": [1], "x": Decimal("1.5")},
    )
    assert through(UNTYPED, 5) == ((5, [1, 2]), {"c": {"x": 1}})
    assert through(UNTYPED, 5, 6, 7, c=8) == ((5, 6, 7), {"c": 8})


def test_arguments_are_stored_by_name_with_their_defaults() -> None:
    assert unpack(STREAM.encode(("u",), {})) == {"url": "u", "max_value": 20, "loaded": 0}
    assert unpack(UNTYPED.encode((1,), {})) == {"a": 1, "b": [1, 2], "rest": [], "c": {"x": 1}}


def test_a_keyword_may_bear_the_name_of_a_positional_only_parameter() -> None:
    args, kwargs = through(EVERYTHING, 1, Order(id=2), first=3)
    assert (args, kwargs["first"]) == ((1, Order(id=2)), 3)


def test_a_function_without_parameters_takes_none() -> None:
    def nothing() -> None: ...

    assert through(Parameters(nothing, owner="nothing")) == ((), {})


def test_mutable_defaults_are_never_shared() -> None:
    default = [1]

    def collect(into: list[int] = default, plain: Any = default) -> None: ...

    parameters = Parameters(collect, owner="collect")
    (into, plain), _ = through(parameters)
    into.append(2)
    plain.append(3)
    default.append(4)
    assert through(parameters) == (([1], [1]), {})
    assert parameters.decode(pack({})) == (([1], [1]), {})


@pytest.mark.parametrize(
    ("args", "kwargs", "message"),
    [
        ((), {}, "order_stream() missing 1 required positional argument: 'url'"),
        ((1, 2, 3, 4), {}, "order_stream() takes from 1 to 3 positional arguments but 4 were"
         " given"),
        (("u",), {"x": 1}, "order_stream() got an unexpected keyword argument 'x'"),
        (("u",), {"url": 1}, "order_stream() got multiple values for argument 'url'"),
        (("u", "abc"), {}, "parameter 'max_value' of order_stream must be int: Input should be a "
         "valid integer, unable to parse string as an integer (got 'abc')"),
        ((b"\xff",), {}, "parameter 'url' of order_stream must be str: Input should be a valid "
         "string, unable to parse raw data as a unicode string (got b'\\xff')"),
    ],
)  # fmt: skip
def test_arguments_that_do_not_fit_are_refused(
    args: tuple[Any, ...], kwargs: dict[str, Any], message: str
) -> None:
    with pytest.raises(InvalidArguments) as caught:
        STREAM.encode(args, kwargs)
    assert str(caught.value) == message
    assert isinstance(caught.value, TypeError)


def test_a_handler_without_a_name_goes_by_its_channel() -> None:
    def _(price: int) -> None: ...

    with pytest.raises(InvalidArguments, match=r"^update add\(\) missing 1 .*: 'price'$"):
        Parameters(_, owner="update add").encode((), {})


def call(function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> str | None:
    try:
        function(*args, **kwargs)
    except TypeError as error:
        return str(error)
    return None


def sample(a: Any, b: Any, /, c: Any, d: Any = 4, *e: Any, f: Any, g: Any = 7) -> None: ...
def fixed(a: Any, b: Any = 2, *, c: Any) -> None: ...
def open_(a: Any, /, **more: Any) -> None: ...


@given(
    st.sampled_from([sample, fixed, open_]),
    st.lists(st.integers(), max_size=6).map(tuple),
    st.dictionaries(st.sampled_from("abcdefgh"), st.integers(), max_size=5),
)
def test_binding_agrees_with_python(
    function: Callable[..., Any], args: tuple[int, ...], kwargs: dict[str, int]
) -> None:
    parameters = Parameters(function, owner=function.__name__)
    expected = call(function, args, kwargs)
    if expected is not None:
        with pytest.raises(InvalidArguments) as caught:
            parameters.encode(args, kwargs)
        assert str(caught.value) == expected
        return
    args, kwargs = through(parameters, *args, **kwargs)
    assert call(function, args, kwargs) is None
    assert through(parameters, *args, **kwargs) == (args, kwargs)


def test_binding_calls_nothing() -> None:
    def explode(a: int) -> None:
        raise AssertionError(a)

    assert through(Parameters(explode, owner="explode"), 1) == ((1,), {})


def test_an_argument_that_cannot_be_stored_is_named() -> None:
    with pytest.raises(NotSerializable) as caught:
        UNTYPED.encode(({"lock": threading.Lock()},), {})
    assert str(caught.value).startswith("the arguments of untyped: a.lock is a _thread.lock, which")


def test_arguments_over_2_mb_together_are_too_large() -> None:
    with pytest.raises(
        PayloadTooLarge, match=r"^the arguments of untyped holds 24000.. bytes, more"
    ):
        UNTYPED.encode(("x" * 1_200_000, "y" * 1_200_000), {})


def test_a_stored_parameter_that_is_gone_is_named() -> None:
    with pytest.raises(UndecodablePayload, match=r"^'old': stored for order_stream, which has no"):
        STREAM.decode(pack({"url": "u", "old": 1}))


def test_a_parameter_added_with_a_default_reads_old_arguments() -> None:
    assert STREAM.decode(pack({"url": "u"})) == (("u", 20, 0), {})
    assert EVERYTHING.decode(pack({"first": 1, "order": {"id": 2}})) == (
        (1, Order(id=2)),
        {"note": None, "limits": [1]},
    )


def test_a_parameter_added_without_a_default_is_named() -> None:
    with pytest.raises(
        UndecodablePayload, match="parameter 'url' of order_stream has neither a st"
    ):
        STREAM.decode(pack({"max_value": 1}))


@pytest.mark.parametrize(
    "plain",
    [
        [],
        5,
        {"first": "x"},
        {"first": 1, "order": {"id": 1}, "tags": 3},
        {"first": 1, "order": {"id": 1}, "more": [3]},
    ],
)
def test_stored_arguments_of_the_wrong_shape_are_undecodable(plain: object) -> None:
    with pytest.raises(UndecodablePayload):
        EVERYTHING.decode(pack(plain))


def test_changes_are_validated_and_merged_over_what_is_stored() -> None:
    data = STREAM.encode(("u",), {"max_value": 7})
    assert STREAM.decode(STREAM.merge(data, {"loaded": "5"})) == (("u", 7, 5), {})
    assert STREAM.merge(data, {"loaded": 5}) == STREAM.encode(("u", 7, 5), {})
    assert STREAM.merge(pack({"url": "u"}), {"loaded": 5, "max_value": 20}) == STREAM.encode(
        ("u", 20, 5), {}
    )
    with pytest.raises(InvalidArguments, match="parameter 'loaded' of order_stream must be int"):
        STREAM.merge(data, {"loaded": "abc"})
    with pytest.raises(InvalidArguments) as caught:
        STREAM.merge(data, {"lodaed": 5})
    assert str(caught.value) == (
        "order_stream has no parameter 'lodaed'. Its parameters: url, max_value, loaded."
    )


def test_variable_parameters_are_merged_too() -> None:
    data = EVERYTHING.encode((1, Order(id=2), "a"), {"x": 1})
    args, kwargs = EVERYTHING.decode(EVERYTHING.merge(data, {"tags": ["b", "c"], "y": "2"}))
    assert args[2:] == ("b", "c")
    assert (kwargs["x"], kwargs["y"]) == (1, 2)
    with pytest.raises(InvalidArguments, match="parameter 'tags' of everything takes a list, not"):
        EVERYTHING.merge(data, {"tags": "abc"})


def test_canonical_arguments_are_those_that_todays_types_write() -> None:
    data = EVERYTHING.encode((1, Order(id=2, tags={"a", "b"})), {})
    assert EVERYTHING.canonical(data) == data
    old = pack({"order": {"id": "2", "tags": ["b", "a", "a"]}, "first": 1})
    assert EVERYTHING.canonical(old) == data


@given(
    st.integers(), st.builds(Order, id=st.integers(), tags=st.sets(st.text())), st.lists(st.text())
)
def test_any_arguments_are_canonical_once_encoded(
    first: int, order: Order, tags: list[str]
) -> None:
    data = EVERYTHING.encode((first, order, *tags), {})
    assert EVERYTHING.canonical(data) == data
    assert EVERYTHING.decode(data)[0] == (first, order, *tags)
