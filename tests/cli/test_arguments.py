"""`--arg` takes text, and the workflow's types say what it means."""

from typing import Any

import pytest
from pydantic import BaseModel

from everlong import workflow
from everlong.cli._arguments import call_of, given, loose, plain_call
from everlong.cli._exits import Mistake
from everlong.exceptions import InvalidArguments


class Item(BaseModel):
    name: str
    price: float = 1.0


@workflow(name="cli-typed")
async def typed(
    number: int,
    text: str = "",
    flag: bool = False,
    maybe: int | None = 3,
    items: list[Item] = [],  # noqa: B006
    anything: Any = None,
    *,
    id: str = "",
) -> None:
    pass


@workflow(name="cli-variadic")
async def variadic(first: int, /, *rest: int, **named: int) -> None:
    pass


def read(**texts: str) -> dict[str, Any]:
    """What arrives in the workflow."""
    arguments = [f"{name}={text}" for name, text in texts.items()]
    args, kwargs = call_of(typed.definition, given(arguments, None))
    parameters = typed.definition.parameters
    values, named = parameters.decode(parameters.encode(args, kwargs))
    return dict(zip(parameters.names, values, strict=False)) | named


@pytest.mark.parametrize(
    ("texts", "name", "value"),
    [
        ({}, "number", 400),
        ({"text": "7"}, "text", "7"),
        ({"text": "[1"}, "text", "[1"),
        ({"text": "[1]"}, "text", "[1]"),
        ({"text": "a=b"}, "text", "a=b"),
        ({"flag": "true"}, "flag", True),
        ({"maybe": "null"}, "maybe", None),
        ({"maybe": "12"}, "maybe", 12),
        ({"items": '[{"name": "tea"}]'}, "items", [Item(name="tea")]),
        ({"anything": "12"}, "anything", "12"),
        ({"anything": '{"a": [1]}'}, "anything", {"a": [1]}),
        ({"id": "x"}, "id", "x"),
    ],
)
def test_text_means_what_the_type_says(texts: dict[str, str], name: str, value: object) -> None:
    assert read(number="400", **texts)[name] == value


@pytest.mark.parametrize(
    ("texts", "told"),
    [
        ({"number": "abc"}, "parameter 'number' of workflow cli-typed must be int"),
        ({"number": "1", "items": "tea"}, "must be list"),
        ({"number": "1", "colour": "red"}, "has no parameter 'colour'"),
        ({"text": "x"}, "add --arg number=…"),
    ],
)
def test_what_does_not_fit_is_refused_with_the_remedy(texts: dict[str, str], told: str) -> None:
    with pytest.raises(InvalidArguments, match=told):
        read(**texts)


def test_variadic_parameters_take_lists_and_names() -> None:
    values = given(["first=1", "rest=[2, 3]", "more=4"], None)
    assert call_of(variadic.definition, values) == (("1", 2, 3), {"more": "4"})


def test_exact_values_come_as_json() -> None:
    values = given(["number=1"], '{"text": "400", "anything": 400}')
    args, kwargs = call_of(typed.definition, values)
    assert (*args[:2], args[5], kwargs) == ("1", "400", 400, {})


@pytest.mark.parametrize(
    ("arguments", "json_arguments", "told"),
    [
        (["number"], None, "write NAME=VALUE"),
        (["=1"], None, "write NAME=VALUE"),
        (["a=1", "a=2"], None, "given twice"),
        (["a=1"], '{"a": 1}', "choose one"),
        (None, "[1]", "a JSON object"),
        (None, "{", "is not JSON"),
    ],
)
def test_malformed_options_are_mistakes(
    arguments: list[str] | None, json_arguments: str | None, told: str
) -> None:
    with pytest.raises(Mistake, match=told):
        given(arguments, json_arguments)


def test_without_types_only_containers_are_json() -> None:
    assert loose("12") == "12"
    assert loose(" [1, 2]") == [1, 2]
    assert loose("{not json") == "{not json"
    assert plain_call(given(["a=true", 'b={"x": 1}'], '{"c": 2}')) == {
        "a": "true",
        "b": {"x": 1},
        "c": 2,
    }
