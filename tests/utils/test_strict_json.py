"""JSON of others: what is read, and what is refused with where it stands."""

import json

import pytest

from grafs_timm.utils import strict_json


@pytest.mark.parametrize("value", [{}, [], {"a": [1, 2.5, -3e-9, 'é\\"[', True, None, {"b": {}}]}, "x", 1, "[" * 100])
def test_ordinary_json_is_read_as_json_reads_it(value):
    assert strict_json.parse(json.dumps(value).encode()) == value


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "line 1, column 1"),
        (b'{"a": 1,}', "line 1, column"),
        (b'{"a": 1, "b": {"c": 1, "c": 2}}', "duplicate key 'c'"),
        (b'{"a": NaN}', "NaN is not a number"),
        (b'{"a": -Infinity}', "-Infinity is not a number"),
        (b'{"a": 1e999}', "1e999 is too large"),
        (b"[" + b"9" * 5000 + b"]", "an integer of 5000 digits"),
        (b"[" * 100_000, "nested more than 40 deep"),
        (b'{"a":' * 41 + b"1" + b"}" * 41, "nested more than 40 deep"),
        (b'"\xff"', "byte 1 is not UTF-8"),
        (b" " * (strict_json.LARGEST + 1), "at most 4,194,304 bytes"),
    ],
)
def test_what_is_refused(content, said):
    with pytest.raises(ValueError, match=said):
        strict_json.parse(content)
