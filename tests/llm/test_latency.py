"""
Phases of a call: they add up to the server's own total, unknown is NaN, and percentiles are the
nearest rank.
"""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from urisk_nb.llm.calls import percentile, timing_of
from urisk_nb.llm.messages import Final

NS = st.integers(0, 10**12)


@given(queue=NS, load=NS, prompt=NS, generation=NS)
def test_phases_add_up_to_the_servers_total(queue, load, prompt, generation):
    """Queue, load, prompt and generation are all there is, whatever the counters are."""
    final = Final(
        total_ns=queue + load + prompt + generation + 1,
        load_ns=load,
        prompt_ns=prompt,
        generation_ns=generation,
    )
    timing = timing_of(final, first_token_s=1.0, total_s=2.0)
    parts = timing.queue_s + timing.load_s + timing.prompt_s + timing.generation_s
    assert parts == pytest.approx(timing.server_total_s)
    assert timing.queue_s == pytest.approx((queue + 1) / 1e9)


def test_counters_that_exceed_the_total_give_no_negative_queue():
    """The server rounds its parts; a queue below zero would be nonsense in a chart."""
    assert (
        timing_of(Final(total_ns=10, load_ns=8, prompt_ns=8), first_token_s=0, total_s=0).queue_s
        == 0
    )


def test_a_server_without_counters_gives_nan_not_zero():
    """Unknown is not instantaneous; our own clock still counts."""
    timing = timing_of(Final(tokens=5), first_token_s=0.25, total_s=0.5, wait_s=0.125, attempts=2)
    unknown = (
        timing.queue_s,
        timing.load_s,
        timing.prompt_s,
        timing.generation_s,
        timing.server_total_s,
        timing.tokens_per_s,
    )
    assert all(math.isnan(value) for value in unknown)
    assert (
        timing.first_token_s,
        timing.total_s,
        timing.wait_s,
        timing.tokens,
        timing.attempts,
    ) == (0.25, 0.5, 0.125, 5, 2)


def test_an_omitted_phase_of_a_server_with_counters_is_zero():
    """The server leaves out what is zero, so next to a total it means none."""
    timing = timing_of(
        Final(total_ns=3_000_000_000, generation_ns=2_000_000_000, tokens=8),
        first_token_s=0,
        total_s=0,
    )
    assert (timing.load_s, timing.prompt_s, timing.queue_s) == (0, 0, 1)
    assert timing.tokens_per_s == 3.5


def test_tokens_per_second_needs_both():
    """No tokens, or no time, is no rate; nor is a single token, which came with the prompt."""
    assert math.isnan(
        timing_of(
            Final(total_ns=2, prompt_ns=1, generation_ns=1, tokens=1), first_token_s=0, total_s=0
        ).tokens_per_s
    )
    assert math.isnan(
        timing_of(Final(total_ns=1, generation_ns=1), first_token_s=0, total_s=0).tokens_per_s
    )
    assert math.isnan(
        timing_of(Final(total_ns=1, tokens=3), first_token_s=0, total_s=0).tokens_per_s
    )


@given(
    values=st.lists(st.floats(0, 1e6), min_size=1, max_size=200),
    share=st.sampled_from([0, 50, 90, 95, 99, 100]),
)
def test_percentiles_are_the_nearest_rank(values, share):
    """One of the values: the smallest that at least so many of the calls do not exceed."""
    enough = [
        value
        for value in values
        if 100 * sum(other <= value for other in values) >= share * len(values)
    ]
    assert percentile(values, share) == min(enough)


def test_unknown_figures_do_not_count():
    """NaN is left out of a percentile; nothing at all is NaN."""
    assert math.isnan(percentile([], 50))
    assert percentile((math.nan, 3.0, math.nan), 95) == 3.0
