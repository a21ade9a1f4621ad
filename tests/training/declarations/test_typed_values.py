"""Text and YAML values become typed values, or one sentence."""

from __future__ import annotations

import enum
import json
from typing import Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hf_difflm.errors import UserError
from hf_difflm.training.declarations.fields import Field, own_fields
from hf_difflm.training.declarations.typed_values import typed_value


class Colour(enum.Enum):
    RED = "red"
    BLUE = "blue"


def field(hint: Any, **metadata: Any) -> Field:
    return Field("size", hint, None, metadata, "training")


@pytest.mark.parametrize(
    ("hint", "value", "typed"),
    [
        (int, "12", 12),
        (int, "-1", -1),
        (int, "1e3", 1000),
        (int, 5.0, 5),
        (float, "3e-4", 3e-4),
        (float, 1, 1.0),
        (bool, "Yes", True),
        (bool, "off", False),
        (bool, True, True),
        (str, "3e-4", "3e-4"),
        (str, 20220301, "20220301"),
        (str | None, "none", None),
        (int | None, "null", None),
        (int | None, None, None),
        (int | None, "3", 3),
        (dict[str, Any], '{"a": [1]}', {"a": [1]}),
        (dict[str, Any], {"a": 1}, {"a": 1}),
        (dict | str | None, '{"a": 1}', {"a": 1}),
        (dict | str | None, "file.json", "file.json"),
        (list[str] | None, "a, b", ["a", "b"]),
        (list[str], ["a", "b"], ["a", "b"]),
        (None | str | list[str], ["a"], ["a"]),
        (None | str | list[str], "a,b", "a,b"),
        (str | bool, "all", "all"),
        (str | bool, "false", False),
        (Colour | str, "red", "red"),
        (str | None | Literal[False], "owner/space", "owner/space"),
        (str | None | Literal[False], "false", False),
    ],
)
def test_values_take_the_declared_type(hint, value, typed):
    result = typed_value(field(hint), value)
    assert result == typed
    assert type(result) is type(typed)


@pytest.mark.parametrize(
    ("hint", "metadata", "value", "sentence"),
    [
        (int, {}, "abc", "size must be an integer, got 'abc'"),
        (int, {}, "1.5", "size must be an integer, got 1.5"),
        (int, {}, True, "size must be an integer, got True"),
        (int, {"min": 1}, "0", "size must be a positive integer, got 0"),
        (int, {"min": 2}, 1, "size must be an integer at least 2, got 1"),
        (int | None, {"min": 1}, "x", "size must be a positive integer, or none, got 'x'"),
        (float, {"above": 0.0}, "0", "size must be a number above 0, got 0"),
        (float, {"above": 0.0}, "inf", "size must be a number above 0, got inf"),
        (float, {"min": 0.0, "below": 1.0}, 1.0, "size must be a number at least 0 and below 1, got 1.0"),
        (float, {"min": 0.0, "max": 0.5}, 0.6, "size must be a number at least 0 and at most 0.5, got 0.6"),
        (float, {}, None, "size must be a number, got None"),
        (bool, {}, "maybe", "size must be true or false, got 'maybe'"),
        (bool, {}, 3, "size must be true or false, got 3"),
        (str, {}, 1.5, "size must be text (in a recipe: put it in quotes), got 1.5"),
        (dict[str, Any], {}, "[1]", "size must be a mapping (as JSON on the command line), got '[1]'"),
        (dict[str, Any], {}, "{", "size must be a mapping (as JSON on the command line), got '{'"),
        (list[str], {}, 3, "size must be a comma-separated list, got 3"),
        (str, {"choices": ("a", "bc")}, "d", "size must be one of a, bc, got 'd'"),
        (str, {"choices": ("mean", "sum")}, "meen", "size must be one of mean, sum, got 'meen'; did you mean 'mean'?"),
        (Colour | str, {}, "rad", "size must be one of red, blue, got 'rad'; did you mean 'red'?"),
        (object, {}, "x", "size cannot be set by a recipe or a flag: set it on DiffusionTrainingArguments in Python"),
    ],
)
def test_bad_values_are_refused_in_one_sentence(hint, metadata, value, sentence):
    with pytest.raises(UserError) as error:
        typed_value(field(hint, **metadata), value)
    assert str(error.value) == sentence


def test_a_bare_no_in_yaml_means_the_word_where_no_is_a_choice():
    assert typed_value(field(str, choices=("no", "steps")), False) == "no"


@given(st.integers() | st.floats(allow_nan=False, allow_infinity=False))
def test_numbers_survive_as_text_and_as_values(number):
    assert typed_value(field(float), repr(number)) == typed_value(field(float), number) == float(number)


@given(st.integers())
def test_integers_of_any_size_are_exact(number):
    assert typed_value(field(int), str(number)) == typed_value(field(int), number) == number


@given(st.dictionaries(st.text(), st.integers() | st.text() | st.booleans()))
def test_mappings_survive_as_json(mapping):
    assert typed_value(field(dict[str, Any]), json.dumps(mapping)) == mapping


_YAML_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.dates(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=5,
)


@given(st.sampled_from(list(own_fields().values())), _YAML_VALUES)
def test_no_value_is_a_traceback_and_typing_is_idempotent(option, value):
    """Whatever YAML can hold, each of our fields either types it or says one sentence."""
    try:
        typed = typed_value(option, value)
    except UserError:
        with pytest.raises(UserError, match=f"^{option.name} must be "):
            typed_value(option, value)
    else:
        assert typed_value(option, typed) == typed


@pytest.mark.parametrize("option", list(own_fields().values()), ids=lambda option: option.name)
def test_every_default_satisfies_its_own_declaration(option):
    assert typed_value(option, option.default) == option.default
