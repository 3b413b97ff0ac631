"""What a run was given, as bytes and back: the same plan, and nothing that it did not use."""

import hashlib
import re
from dataclasses import replace
from datetime import date

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from urisk_nb.journal.canonical import decode_json, encode_json
from urisk_nb.readers.prices import read_benchmark, read_prices
from urisk_nb.recording.inputs import RunInputs, decode_inputs, encode_inputs, hash_prices
from urisk_nb.recording.number_text import spell_columns
from urisk_nb.risk.families import load_families, read_families
from urisk_nb.risk.inputs import Document, Holding, Section
from urisk_nb.risk.params import RiskParams
from urisk_nb.risk.questions import EXAMPLES
from urisk_nb.risk.taxonomy import DEFAULT, Category, Taxonomy

DAYS = pd.bdate_range("2024-01-01", periods=60)


def make_prices(names=("AAA", "BBB", "CCC"), *, volume=False, unit="ns"):
    rng = np.random.default_rng(3)
    closes = {name: 100 * np.cumprod(1 + rng.normal(0, 0.01, len(DAYS))) for name in names}
    frame = pd.DataFrame(closes, index=DAYS.as_unit(unit))
    frame.iloc[4, 0] = np.nan
    if volume:
        frame = pd.concat({"Close": frame, "Volume": frame * 1000}, axis=1)
    return read_prices(frame)


def make_inputs(**given):
    fields = {
        "holdings": (
            Holding(symbol="AAA", weight=0.1),
            Holding(symbol="BBB", flags=("no_weight",)),
        ),
        "prices": None,
        "documents": None,
        "params": RiskParams(),
        "taxonomy": DEFAULT,
        "examples": EXAMPLES,
    }
    return RunInputs(**{**fields, **given})


def pass_through(inputs):
    """The inputs as they come back from the journal."""
    record, objects = encode_inputs(inputs)
    record = decode_json(encode_json(record))  # as it is written and read
    return decode_inputs(record, {one.hash.hex(): one.body for one in objects})


def assert_same_prices(one, other, names):
    for before, after in ((one.close, other.close), (one.volume, other.volume)):
        assert (before is None) == (after is None)
        if before is not None:
            pd.testing.assert_frame_equal(
                before[names], after[names], check_exact=True, check_freq=False
            )
    for name in ("flags", "is_returns", "price_column", "is_adjusted"):
        assert getattr(one, name) == getattr(other, name)


@pytest.mark.parametrize("volume", [False, True])
@pytest.mark.parametrize("unit", ["ns", "us", "s"])
def test_prices_come_back_to_the_bit(volume, unit):
    """Of the columns that the run used; the others are names without numbers."""
    inputs = make_inputs(prices=make_prices(volume=volume, unit=unit))
    back = pass_through(inputs)
    assert_same_prices(inputs.prices, back.prices, ["AAA", "BBB"])
    assert back.prices.close["CCC"].isna().all()
    assert back.prices.close.index.unit == inputs.prices.close.index.unit


def test_the_plan_is_the_same():
    """Also what is said of a ticker without prices, which names columns that were not used."""
    inputs = make_inputs(
        holdings=(Holding(symbol="AAA"), Holding(symbol="CCD")),
        prices=make_prices(volume=True),
        params=RiskParams(benchmark="BBB", window="6m", alpha=(0.05, 0.01)),
    )
    before, after = inputs.prepare(), pass_through(inputs).prepare()
    assert before.meta == after.meta
    assert "CCC" in before.meta["messages"]["CCD"]
    for symbol in before.symbols:
        pd.testing.assert_series_equal(
            pd.Series(before.quant[symbol].values, dtype=object),
            pd.Series(after.quant[symbol].values, dtype=object),
        )


def test_a_fault_of_a_column_comes_back():
    frame = pd.DataFrame({"AAA": ["1.0", "what?"] * 30, "BBB": ["2.0"] * 60}, index=DAYS)
    inputs = make_inputs(prices=read_prices(frame))
    before, after = inputs.prepare(), pass_through(inputs).prepare()
    assert before.quant["AAA"].status == "bad_data"
    assert before.quant["AAA"].message == after.quant["AAA"].message


def test_a_benchmark_that_is_no_column_comes_back():
    series = pd.Series(np.linspace(50, 60, len(DAYS)) + np.sin(range(60)), DAYS, name="INDEX")
    inputs = make_inputs(
        prices=make_prices(),
        benchmark=read_benchmark(series),
        params=RiskParams(benchmark="given"),
    )
    before, after = inputs.prepare(), pass_through(inputs).prepare()
    assert before.quant["BBB"].values["beta"] == after.quant["BBB"].values["beta"]
    assert not np.isnan(before.quant["BBB"].values["beta"])


DOCUMENT = Document(
    id="E1",
    ticker="AAA",
    text="Half a pair \ud800, a nul \x00 and \u202e.\nItem 1A. It was fined.",
    period_end=date(2023, 12, 31),
    date=date(2024, 2, 3),
    source="a/b.html",
    kind="news",
    form="10-K",
    sections=(Section(name="Item 1A", title="Risk Factors", start=31),),
    origins=((0, 7), (31, 60)),
)


def test_documents_come_back_in_every_field():
    """Also text that no encoding has; in their order; those of other companies are not kept."""
    documents = (
        DOCUMENT,
        replace(DOCUMENT, id="E2", ticker="ZZZ"),
        replace(DOCUMENT, id="E3", ticker=None),
        Document(id="E4", ticker="BBB", text="It fell."),
    )
    back = pass_through(make_inputs(documents=documents, previous=documents[:1]))
    assert [one.id for one in back.documents] == ["E1", "E3", "E4"]
    assert back.documents == (documents[0], documents[2], documents[3])
    assert back.previous == documents[:1]
    assert pass_through(make_inputs(documents=())).documents == ()


def test_a_document_of_two_runs_is_one_object():
    """Its hash is that of its content, whatever else a run reads."""
    other = Document(id="E9", ticker="BBB", text="It fell.")
    _, first = encode_inputs(make_inputs(documents=(DOCUMENT,)))
    _, second = encode_inputs(make_inputs(documents=(other, DOCUMENT)))
    shared = {one.hash for one in first} & {one.hash for one in second}
    assert [one.hash for one in first if b"10-K" in one.body] == list(shared)


def test_taxonomy_examples_and_families_come_back():
    own = Taxonomy(
        version="mine", categories=(Category(id="weather", name="W", definition="storms"),)
    )
    text = '[flood]\ncategory="weather"\ncap=5\nfloor=4\nweight=3\ndecisive=true\n'
    text += "core=['flood(s|ed)?']\npatterns=['high water']\n"
    families = read_families(text, "own.toml", load_families())
    inputs = make_inputs(taxonomy=own, examples=(), families=families)
    back = pass_through(inputs)
    assert back.taxonomy == own
    assert back.taxonomy.hash == own.hash
    assert back.examples == ()
    assert back.families == families
    assert back.families[-1].cues[0].pattern.search("it was flooded")
    assert pass_through(make_inputs()).examples == EXAMPLES


@settings(max_examples=60)
@given(
    alpha=st.lists(st.sampled_from([0.05, 0.01, 0.025, 0.1]), min_size=1, unique=True),
    start=st.none() | st.dates(date(1990, 1, 1), date(2030, 1, 1)),
    query=st.none() | st.text("abc é", min_size=1).filter(str.strip),
    judge=st.none() | st.just(("one", "two")),
    seed=st.integers(0, 2**31),
)
def test_parameters_come_back(alpha, start, query, judge, seed):
    params = RiskParams(alpha=tuple(alpha), start=start, query=query, judge=judge, seed=seed)
    assert pass_through(make_inputs(params=params)).params == params


# The hash of prices -------------------------------------------------------------------------------


def test_the_hash_of_prices_is_worked_out_by_hand():
    """Two days of two tickers: the text that is hashed is written out here."""
    days = pd.DatetimeIndex(["2024-01-02", "2024-01-03"])
    prices = read_prices(pd.DataFrame({"B": [1.0, 1.5], "A": [100.0, 0.1]}, index=days))
    text = (
        "2024-01-02 2024-01-03\n"
        "A 0x1.9000000000000p+6 0x1.999999999999ap-4\n"
        "B 0x1.0000000000000p+0 0x1.8000000000000p+0"
    )
    assert hash_prices(prices) == hashlib.sha256(text.encode()).hexdigest()


def test_the_hash_of_prices_knows_content_alone():
    """Not the order of the columns, nor the unit of the dates; each last bit, each date counts."""
    prices = make_prices()
    same = replace(prices, close=prices.close[["CCC", "AAA", "BBB"]])
    assert hash_prices(same) == hash_prices(prices) == hash_prices(make_prices(unit="us"))
    moved = prices.close.copy()
    moved.iloc[9, 1] = np.nextafter(moved.iloc[9, 1], 0)
    later = prices.close.set_axis(prices.close.index + pd.Timedelta(days=1))
    renamed = prices.close.rename(columns={"BBB": "BBC"})
    others = {hash_prices(replace(prices, close=close)) for close in (moved, later, renamed)}
    assert len(others | {hash_prices(prices)}) == 4
    assert hash_prices(prices, ["AAA"]) != hash_prices(prices)


NUMBERS = st.floats(allow_nan=True, allow_infinity=True, allow_subnormal=True)


@settings(max_examples=300)
@given(st.lists(st.lists(NUMBERS, min_size=4, max_size=4), min_size=1, max_size=3))
def test_numbers_are_spelled_as_float_hex_spells_them(columns):
    """Also NaN, infinities, zeros of both signs and the smallest numbers."""
    spelled = list(spell_columns(np.array(columns)))
    wanted = ["".join(f" {one.hex()}" for one in numbers) for numbers in columns]
    assert [text.decode() for text in spelled] == wanted


@settings(max_examples=100)
@given(
    st.lists(
        st.floats(1e-4, 2e5).flatmap(
            lambda near: st.lists(st.floats(near, near * 3), min_size=4, max_size=4)
        )
        | st.lists(NUMBERS, min_size=4, max_size=4),
        min_size=1,
        max_size=6,
    )
)
def test_columns_of_one_width_stand_beside_others(columns):
    """Most columns have numbers of one size, which are laid out in another way."""
    wanted = ["".join(f" {one.hex()}" for one in numbers) for numbers in columns]
    assert [text.decode() for text in spell_columns(np.array(columns))] == wanted


def test_prices_without_rows_have_a_hash():
    assert list(spell_columns(np.empty((2, 0)))) == [b"", b""]


def test_nothing_is_pickled():
    """No object of the journal is a pickle: reading one runs no code."""
    _, objects = encode_inputs(make_inputs(prices=make_prices(), documents=(DOCUMENT,)))
    assert all(re.match(rb"[\[{]", one.body) for one in objects)
