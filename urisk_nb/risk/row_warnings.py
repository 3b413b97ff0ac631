"""
What each warning of a row means: the codes of the column `flags`, and one sentence for each.

A code says why a value is missing or why a value needs a second look. The table shows the codes
beside the row and each sentence once, under the table. docs/metrics.md lists the rules.
"""

from __future__ import annotations

from collections.abc import Iterable

__all__ = ["LABELED_BY", "WARNINGS", "codes_in"]

# Who made the labels. These hold for the whole table, so they stand above it and not beside each
# row.
LABELED_BY = {
    "demo_model": "Labels by the demo model (135 million parameters), which labels sentences "
    "poorly. It shows how the table works. Do not base a decision on it.",
    "small_judge": "Labels by urisk-judge (135 million parameters), trained for this task. Of "
    "300 real sentences it labels 76 % as a careful reader does, and 93 % as that reader accepts; "
    'always answering "none" gets 60 % and 72 %, and two readers agree on 85 %. Read the quoted '
    "sentence before you rely on a row.",
}

WARNINGS = {
    **LABELED_BY,
    # Tickers and weights
    "alias": "The column or document writes the ticker in another way, such as BRK-B for BRK.B or "
    "NVDA US Equity for NVDA.",
    "duplicate": "The ticker was listed more than once, or in two spellings. It is one row, and "
    "its weights are added.",
    "no_weight": "Other tickers have a weight; this one has none.",
    # The portfolio, episodes, factors
    "cf_domain": "Skewness and kurtosis are too large for the Cornish-Fisher VaR, so do not use "
    "that figure.",
    "collinear_factors": "In the returns that they share with this ticker, one factor follows from "
    "the others.",
    "no_portfolio": "The portfolio, or this part of it, cannot be computed; "
    'table.portfolio["reason"] says why.',
    "partial_episode": "The prices begin or end more than a week inside the episode; only that "
    "part of it counts.",
    "short_backtest": "Fewer than 5 exceedances are expected, too few for the test to tell right "
    "from wrong.",
    "wiped_out": "The book loses its whole capital in one period, so its wealth has no path after "
    "that.",
    # Prices
    "bad_data": "The prices cannot be used; the message under the table names the ticker and the "
    "date.",
    "extreme_total": "The price grew more than 100-fold, and more than 10-fold a year; check its "
    "unit and its splits.",
    "flat": "All returns are equal but for rounding, so shape and correlation are undefined.",
    "flat_benchmark": "All returns of the benchmark are equal but for rounding, so beta and "
    "correlation are undefined.",
    "gap": "Prices are missing for longer than five usual steps; the return across the gap counts "
    "only in return and drawdown.",
    "jump": "A price rose or fell by the factor of a split or more, far beyond its usual moves; "
    "check it for a missed split or another unit.",
    "jump_benchmark": "The benchmark rose or fell by the factor of a split or more in one step. "
    "That decides beta and correlation, so check it.",
    "mixed_frequency": "The prices change from one frequency to another, such as months to days, "
    "so no factor makes them annual.",
    "no_data": "There are no prices for this ticker in the period.",
    "no_drawdown": "The price never fell, so the drawdown has no dates.",
    "short_history": "There are fewer than 30 returns, too few for volatility and moments.",
    "short_joint": "Benchmark, factors or the other holdings share fewer than 30 returns with it, "
    "or less than half of the longest history.",
    "short_tail": "Fewer than 5 returns are expected in the tail, too few for VaR and ES.",
    "stale": "The last price is more than five usual steps older than the as-of date.",
    "unlikely_returns": "The values are too large for returns as fractions (0.015 for 1.5 %); the "
    "message under the table says why.",
    "unsorted": "The rows of the prices were not in date order; they were sorted.",
    # Volume
    "bad_volume": "Some volumes are negative or infinite; these days were left out of the volume "
    "columns.",
    "no_price_level": "You gave returns, so traded value cannot be computed.",
    "no_volume": "There is no volume for this ticker.",
    "short_volume": "There are fewer than 21 days with volume, or none of them has a return.",
    # Evidence
    "future_evidence": "Documents dated after the as-of date were left out.",
    "hidden_text": "The evidence holds characters or comments that a reader cannot see; the model "
    "was not shown them.",
    "injection_suspect": "A sentence reads like an instruction to a language model; it was "
    "labeled like any other, so check its label.",
    "no_evidence": "There was no sentence to ask the model about.",
    "no_previous": "There is no document of the year before to compare this ticker's evidence "
    "with.",
    "off_query": "The evidence has sentences for this ticker, but none shares a word with the "
    "query, so none was asked.",
    "shared_evidence": "Some sentences were given for all tickers (`*`), not for this one alone, "
    "and count here too.",
    "single_source": "All sentences that name a risk come from one document.",
    "nothing_decisive": "Low means here that the filing says nothing decisive. It does not mean "
    "that nothing is wrong.",
    "low_alert": "The labels come to Low, though the words of a sentence are an alert. Read it: "
    "a model may take it for too little.",
    "thin_filing": "The evidence has a filing, and fewer than 60 sentences were read: too few to "
    "call a company Low, so it has no score.",
    "thin_evidence": "Fewer than 5 sentences were labeled.",
    "truncated": "As many sentences were asked as max_sentences allows; a higher number may "
    "ask more.",
    "undated": "Documents without a date were left out, because as_of was given.",
    "uneven_previous": "One year has less than half of the other's sentences, as an extract has; "
    "`new` and `gone` then say little.",
    # Labels
    "judges_disagree": "Judges disagree on a sentence, so its label does not count; "
    "table.judgements() shows what each says.",
    "no_opinion": "A further judge gave no valid answer to a sentence; table.judgements() has the "
    "reason.",
    "no_logprobs": "The server gives no probabilities, so labels are greedy.",
    "no_p_label": "Some labels have no probability to compare with --review-below, so they "
    "count; add --labels calibrated.",
    "no_risk_found": "Sentences were labeled, and none of them names a risk that counts.",
    "not_calibrated": "Some labels could not be calibrated and are greedy.",
    "not_run": "The run ended before this ticker was labeled.",
    "override": "A person corrected the label of a sentence, and the correction counts; "
    "table.report.findings says who, when and why.",
    "prompt_cut": "The server read far fewer tokens than were sent: it cut the prompt. Ask for a "
    "larger window: %env URISK_NUM_CTX=8192.",
    "repaired": "The model's first answer to a sentence was not valid; it was asked again.",
    "review": "Some labels do not count, because of low probability or because judges disagree; "
    "table.review() lists them.",
    "second_look_failed": "A second question about a severe sentence got no valid answer; the "
    "first answer counts.",
    "unjudged": "Some sentences have no label; table.report.findings gives the reason.",
    "unstable": "Two questions about a sentence gave severities two or more apart; the lower one "
    "counts.",
}


def codes_in(cells: Iterable[object]) -> list[str]:
    """Return the codes that occur in cells of the column `flags`, each once, sorted."""
    return sorted(
        {code for cell in cells if isinstance(cell, str) for code in cell.split(";") if code}
    )
