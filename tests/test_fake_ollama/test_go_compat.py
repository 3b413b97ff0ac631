"""
Go's JSON errors, escapes, instants and durations, against what Go's own library documents and
Ollama was seen to send.
"""

import json
from datetime import datetime

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fake_ollama import go_compat

BAD = [
    (b"hello", "invalid character 'h' looking for beginning of value"),
    (b'{"model":"smol"', "unexpected EOF"),
    (b"[1,", "unexpected EOF"),
    (b'"abc', "unexpected EOF"),
    (b"tr", "unexpected EOF"),
    (b"{,}", "invalid character ',' looking for beginning of object key string"),
    (b'{"a" 1}', "invalid character '1' after object key"),
    (b'{"a":1 "b"}', "invalid character '\"' after object key:value pair"),
    (b"[1 2]", "invalid character '2' after array element"),
    (b'["]" 2]', "invalid character '2' after array element"),
    (b'{"a":[1 2]}', "invalid character '2' after array element"),
    (b"'x'", r"invalid character '\'' looking for beginning of value"),
    (b"NaN", "invalid character 'N' looking for beginning of value"),
    (b"[Infinity]", "invalid character 'I' looking for beginning of value"),
    (b'"a\nb"', r"invalid character '\n' in string literal"),
    (rb'"\x"', "invalid character 'x' in string escape code"),
]


@pytest.mark.parametrize(("body", "text"), BAD)
def test_syntax_errors_are_gos(body, text):
    """The text of encoding/json; clients match on the status alone."""
    with pytest.raises(go_compat.GoError) as caught:
        go_compat.loads(body)
    if body != rb'"\x"':  # Python points at the backslash, Go at the character behind it
        assert str(caught.value) == text


@pytest.mark.parametrize("body", [b"", b"  \r\n\t"])
def test_nothing_is_told_apart(body):
    """An empty body has an error of its own."""
    with pytest.raises(go_compat.NoBody):
        go_compat.loads(body)


@pytest.mark.parametrize("body", [b"[" * 200_000, b"9" * 10_000, b'{"a":' * 100_000])
def test_hostile_depth_and_length_are_refused(body):
    """Neither a crash nor a hang."""
    with pytest.raises(go_compat.GoError):
        go_compat.loads(body)


@settings(max_examples=50)
@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(),
        lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
        max_leaves=25,
    )
)
def test_what_is_written_is_read_again(value):
    """
    Through both encoders: ours is valid JSON for Python's, and Python's for ours; what follows the
    value is not looked at.
    """
    assert json.loads(go_compat.dumps(value)) == value
    assert go_compat.loads(json.dumps(value).encode() + b" rest") == value


def test_gos_escapes():
    """HTML signs and line separators are escaped, other characters are not."""
    assert go_compat.dumps("<é>&\u2028") == '"\\u003cé\\u003e\\u0026\\u2028"'.encode()


DURATIONS = [
    ("0", 0),
    ("20m", 1200),
    ("1h30m", 5400),
    ("-1m", -60),
    ("1.5s", 1.5),
    (".5s", 0.5),
    ("300ms", 0.3),
    ("1us", 1e-6),
    ("+2h", 7200),
]


@pytest.mark.parametrize(("text", "seconds"), DURATIONS)
def test_durations(text, seconds):
    """The examples of Go's time.ParseDuration."""
    assert go_compat.duration_ns(text) == round(seconds * 1e9)


BAD_DURATIONS = [
    ("", 'time: invalid duration ""'),
    ("-1", 'time: missing unit in duration "-1"'),
    ("20", 'time: missing unit in duration "20"'),
    ("1y", 'time: unknown unit "y" in duration "1y"'),
    ("m", 'time: invalid duration "m"'),
    ("--1m", 'time: invalid duration "--1m"'),
    ("1h x", 'time: unknown unit "h x" in duration "1h x"'),
]


@pytest.mark.parametrize(("text", "error"), BAD_DURATIONS)
def test_bad_durations(text, error):
    """Go's texts."""
    with pytest.raises(go_compat.GoError) as caught:
        go_compat.duration_ns(text)
    assert str(caught.value) == error


@pytest.mark.parametrize(
    ("value", "ns"),
    [
        (0, 0),
        (1.5, 1_500_000_000),
        (-1, go_compat.FOREVER_NS),
        ("-1m", go_compat.FOREVER_NS),
        (1e300, 9 * 10**18),
    ],
)
def test_keep_alive(value, ns):
    """A number is seconds; anything negative is for ever; nothing overflows."""
    assert go_compat.keep_alive_ns(value) == ns


def test_instants_drop_trailing_zeros():
    """Nine digits at most, none where there are none, and a zone that datetime reads."""
    assert go_compat.instant(1_700_000_000 * 10**9) == "2023-11-14T22:13:20Z"
    assert go_compat.instant(1_700_000_000 * 10**9 + 120_000_000) == "2023-11-14T22:13:20.12Z"
    assert go_compat.instant(1_700_000_000 * 10**9 + 1) == "2023-11-14T22:13:20.000000001Z"
    local = go_compat.instant(1_700_000_000 * 10**9, local=True)
    assert datetime.fromisoformat(local).timestamp() == 1_700_000_000
    assert go_compat.instant(1_700_000_000 * 10**9 + go_compat.FOREVER_NS)[:4] == "2316"


@pytest.mark.parametrize(
    ("zone", "end"), [("Asia/Kolkata", "+05:30"), ("America/St_Johns", "-03:30"), ("UTC", "Z")]
)
def test_local_instants_carry_the_offset(monkeypatch, zone, end):
    """Half hours too."""
    import time

    monkeypatch.setenv("TZ", zone)
    time.tzset()
    try:
        assert go_compat.instant(1_700_000_000 * 10**9, local=True).endswith(end)
    finally:
        monkeypatch.undo()
        time.tzset()
