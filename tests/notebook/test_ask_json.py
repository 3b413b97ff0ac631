"""`%%ask --json` in a real kernel against the fake Ollama: what is bound, shown and said."""

import json

import pytest

pytestmark = pytest.mark.slow  # a kernel of its own

SETUP = """
import dataclasses, datetime, enum
from typing import Literal, Optional
import pydantic
from urisk_nb import LLMManager
@dataclasses.dataclass
class Holding:
    ticker: str
    risk: float
    day: Optional[datetime.date] = None
class Report(pydantic.BaseModel):
    name: str
    level: Literal["low", "high"] = "low"
    holdings: list[Holding]
limits = {
    "type": "object", "required": ["code", "share", "day", "parts"], "additionalProperties": False,
    "properties": {
        "code": {"type": "string", "pattern": "^[A-Z]+$"},
        "share": {"type": "number", "minimum": 0, "maximum": 1},
        "day": {"type": "string", "format": "date"},
        "parts": {"type": "array", "maxItems": 2, "items": {
            "type": "object", "properties": {"level": {"enum": ["low", "high"]}}}}}}
sent = lambda: [__import__("json").loads(one.body)
                for one in LLMManager.get_instance().calls.records]
"""
GOOD = {"code": "A", "share": 0.5, "day": "2024-01-02", "parts": []}
ROWS = [{"ticker": "NVDA", "risk": 3, "day": "2024-01-02"}, {"ticker": "F", "risk": 1.5}]
HOSTILE = "<img src=x onerror=alert(1)>\x1b[2J\u202e$x$"


def bad(**changes):
    return json.dumps({**GOOD, **changes})


# What is asked, what the model says, and the place and the reason that the error names.
UNFIT = {
    "missing": (json.dumps({"code": "A", "share": 1, "day": "2024-01-02"}), "$: the field 'parts'"),
    "wrongtype": (bad(share="high"), "$.share: 'high' is not a number"),
    "extrafield": (bad(more=1), "$: the schema has no field 'more'"),
    "choices": (bad(parts=[{"level": "mid"}]), "$.parts[0].level: 'mid' is none of 'low', 'high'"),
    "toomuch": (bad(share=1.5), "$.share: 1.5 is more than 1"),
    "pattern": (bad(code="a1"), "$.code: 'a1' does not match '^[A-Z]+$'"),
    "dates": (bad(day="2024-13-01"), "$.day: '2024-13-01' is not of the format 'date'"),
    "toolong": (bad(parts=[{}, {}, {}]), "$.parts: a list of 3 is longer than 2"),
    "notjson": ("Sure! The answer is high.", "$: the answer is not JSON"),
    "prose": (f"Here it is: {json.dumps(GOOD)}", "$: the answer is not JSON"),
    "emptyone": (" ", "$: the answer is empty"),
    "thoughts": ("<think>Well, it", "$: the model only thought"),
    "notfinite": (bad(share=float("nan")), "$: NaN is no number of JSON"),
    "twicenamed": ('{"code": "A", "code": "B"}', "$: the field 'code' stands twice"),
    "nested": ("[" * 100_000, "$: the answer is nested too deeply"),
    "hugeint": (f'{{"share": {"9" * 5000}}}', "$: a whole number has 5,000 digits"),
    "huge": ('"' + "x" * 2_000_000 + '"', "$: the answer has 2,000,002 characters"),
}


@pytest.fixture(scope="module")
def asking(kernel, tmp_path_factory):
    """A kernel with a session whose server answers by the word in a question."""
    from harness import FakeOllama

    rules = [
        {"contains": "'high' is not a number\nGive", "answer": json.dumps(GOOD), "times": 1},
        {"contains": "cannot be used", "answer": "Sorry, no."},
        *({"contains": f"{word}?", "answer": said} for word, (said, _) in UNFIT.items()),
        {"contains": "rows?", "answer": json.dumps(ROWS)},
        {"contains": "fenced?", "answer": f"\ufeff```json\n{json.dumps(GOOD)}\n```"},
        {"contains": "hostile one?", "answer": json.dumps({"ticker": HOSTILE, "risk": 1})},
        {"contains": "report?", "answer": json.dumps({"name": HOSTILE, "holdings": ROWS})},
        {"contains": "slow?", "answer": ['{"ticker": "', *["word "] * 600], "token_ms": 20},
        {"contains": "good?", "answer": json.dumps(GOOD)},
    ]
    path = tmp_path_factory.mktemp("json") / "scenario.json"
    path.write_text(json.dumps({"rules": rules}))
    server = FakeOllama("--scenario", str(path))
    kernel.good(f"%urisk_start --url {server.url}")
    kernel.good(SETUP)
    yield kernel
    kernel.good("%urisk_stop")
    server.stop()


def count_calls(kernel):
    return int(kernel.value("LLMManager.get_instance().calls.asked"))


def test_fields_make_a_dict_that_is_bound_and_shown(asking):
    """The server is sent the schema and temperature 0; the model is told the schema, too."""
    cell = asking.good(
        '%%ask holding --json "ticker:str, risk:float" --system "Be brief."\nA hostile one?'
    )
    assert asking.value("holding") == repr({"ticker": HOSTILE, "risk": 1.0})
    assert asking.value("type(_answer).__name__, _answer.timing.total_s > 0") == "Answer True"
    request = json.loads(asking.value("__import__('json').dumps(sent()[-1])"))
    assert list(request["format"]["properties"]) == ["ticker", "risk"]
    assert request["options"]["temperature"] == 0
    system, question = request["messages"]
    assert system["content"] == "Be brief."
    assert question["content"].startswith("A hostile one?")
    assert '"ticker"' in question["content"]
    assert "risk" in cell.text()
    assert "<img" not in cell.html
    assert "\x1b" not in cell.text()
    assert "\u202e" not in cell.text()


def test_a_list_of_objects_is_a_table_with_types(asking):
    """Dates are datetimes, numbers floats; the table knows who made it; its HTML is a table."""
    for form in ('"[ticker:str, risk:float, day:date?]"', "list[Holding]"):
        cell = asking.good(f"%%ask table --json {form}\nThe rows?")
        assert "<table" in cell.html
        assert "NVDA" in cell.text()
        kinds = asking.value("[table[name].dtype.kind for name in ('risk', 'day')]")
        assert kinds == "['f', 'M']"
        assert asking.value("list(table.columns)") == "['ticker', 'risk', 'day']"
        assert asking.value("table.risk.sum(), table.day.isna().sum()") == "4.5 1"
        assert asking.value("table.attrs['urisk']['request_hash'] == _answer.request_hash") == (
            "True"
        )


def test_what_is_printed_in_two_pieces_is_one_text(asking):
    """As a busy kernel sends what one `print` of two values has written."""
    cell = asking.good("print(4.5, end='', flush=True); print(' 1')")
    assert cell.text() == "4.5 1\n"


def test_a_class_makes_its_objects_and_all_of_it_is_escaped(asking):
    """Nested: a pydantic model with dataclasses in it."""
    cell = asking.good("%%ask made --json Report\nA report?")
    assert asking.value("type(made).__name__, made.level, made.holdings[0]") == (
        "Report low Holding(ticker='NVDA', risk=3.0, day=datetime.date(2024, 1, 2))"
    )
    assert "<img" not in cell.html
    assert "&lt;img" in cell.html
    assert "tex2jax_ignore" in cell.html
    assert "\x1b" not in cell.text()


def test_a_line_returns_the_object(asking):
    """`x = %ask --json ...`: the object, not the text."""
    asking.good("data = %ask --json limits Is it good?")
    assert asking.value("data") == repr(GOOD)


def test_a_fence_and_a_mark_around_the_json_are_passed_over(asking):
    """As models write it in spite of the request."""
    asking.good("%%ask data --json limits\nfenced?")
    assert asking.value("data['code']") == "A"


@pytest.mark.parametrize("word", UNFIT)
def test_an_answer_that_does_not_fit_twice_is_an_error_with_the_place(asking, word):
    """Two lines; asked twice and no more; nothing is bound, and the text is kept and shown."""
    asking.good("data = 'before'")
    before = count_calls(asking)
    cell = asking.run(f"%%ask data --json limits --max-tokens 1_000_000\n{word}?")
    if word == "wrongtype":  # the second answer fits
        assert cell.status == "ok"
        assert f"corrected once ({UNFIT[word][1]})" in cell.text()
        assert asking.value("data") == repr(GOOD)
        return
    assert (cell.ename, cell.error.count("\n")) == ("AnswerInvalid", 1), cell.error
    assert count_calls(asking) - before == 2
    last = json.loads(asking.value("__import__('json').dumps(sent()[-1]['messages'][-1])"))
    assert UNFIT[word][1] in last["content"]
    assert asking.value("data") == "before"
    assert asking.value("_answer") == "Sorry, no."
    assert "Sorry, no." in cell.text()
    assert "$: the answer is not JSON" in cell.error


def test_a_cut_answer_names_the_limit_and_is_not_asked_again(asking):
    """No repair makes an answer shorter."""
    before = count_calls(asking)
    cell = asking.run("%%ask data --json limits --max-tokens 5\nrows?")
    assert cell.ename == "AnswerInvalid"
    assert "cut at 5 tokens" in cell.error
    assert "--max-tokens 10" in cell.error
    assert count_calls(asking) - before == 1


@pytest.mark.parametrize(
    ("schema", "said"),
    [
        ("3", "the field '3' has no type"),
        ("ticker,risk", "the field 'ticker' has no type"),
        ('"[ticker, risk]"', "the field 'ticker' has no type"),
        ("sent", "an object of function"),
        ("Holdings", "did you mean --json Holding?"),
        ("nothing_here", "./nothing_here.json"),
        ("Report(name='x',holdings=[])", "not the class Report itself"),
        ('{"$ref":"http://127.0.0.1:9/x"}', "lies outside"),
        ('"ticker:txt"', "there is no type 'txt'"),
        ("nowhere.json", "cannot be read"),
    ],
)
def test_what_is_no_schema_is_refused_before_anything_is_asked(asking, schema, said):
    """Two lines, and no call."""
    before = count_calls(asking)
    cell = asking.run(f"%%ask data --json {schema}\ngood?")
    assert (cell.ename, cell.error.count("\n")) == ("InputError", 1), cell.error
    assert said in cell.error
    assert count_calls(asking) == before


def test_raw_shows_the_text_and_binds_the_object(asking):
    """`--raw` changes what is shown."""
    cell = asking.good("%%ask data --json limits --raw\ngood?")
    assert '{"code": "A"' in cell.text()
    assert asking.value("data['share']") == "0.5"


@pytest.mark.timing
def test_an_interrupt_keeps_the_text_and_binds_nothing(asking):
    """What counts is shown while it comes; then the prompt is back, as for an answer in words."""
    asking.good("data = 'before'")

    def counting(message):
        return "characters of JSON" in str(message["content"].get("data", {}).get("text/plain", ""))

    started = asking.start('%%ask data --json "ticker:str"\nslow?')
    cell, seconds = asking.interrupt_when(started, counting)
    assert cell.ename == "KeyboardInterrupt"
    assert cell.error.count("\n") == 0
    assert "_answer has what had come" in cell.error
    assert seconds < 0.5
    assert asking.value("data, _answer.done_reason, _answer[:9]") == 'before interrupted {"ticker"'
