"""The options of an answer, from the text of a line."""

import pytest

from urisk_nb.chat.options import DEFAULT_MAX_TOKENS, read_answer_options
from urisk_nb.errors import InputError


def test_nothing_given_is_the_models_own_way_with_a_limit():
    """What was not said is not sent; the limit is."""
    assert read_answer_options({}, "%%ask").list_sent() == {"num_predict": DEFAULT_MAX_TOKENS}


def test_what_is_given_is_sent_under_ollamas_names():
    """Zero is a value, and no absence of one."""
    given = {"temperature": "0", "seed": "0", "max_tokens": "2_000"}
    sent = read_answer_options(given, "%%ask").list_sent()
    assert sent == {"temperature": 0.0, "seed": 0, "num_predict": 2000}


@pytest.mark.parametrize("text", ["", "x", "-0.1", "2.01", "nan", "inf", "1e400"])
def test_a_temperature_out_of_range_is_named_with_a_fix(text):
    """The error has what was seen, and a line that works."""
    with pytest.raises(InputError, match=r"--temperature") as caught:
        read_answer_options({"temperature": text}, "%%ask")
    assert caught.value.fix.endswith("--temperature 0.2")


@pytest.mark.parametrize("name", ["seed", "max_tokens"])
@pytest.mark.parametrize("text", ["", "1.5", "-1", "1e3", "9" * 30])
def test_a_number_that_is_not_whole_or_too_large_is_refused(name, text):
    """The same of both."""
    with pytest.raises(InputError, match="--" + name.replace("_", "-")):
        read_answer_options({name: text}, "%%ask")
