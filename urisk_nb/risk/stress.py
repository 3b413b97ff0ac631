"""
Dated episodes in the user's own prices: what each ticker and the portfolio lost in them.

An episode has its own dates, so all prices up to the date of the run are read, also those before
the window of the metrics.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import date, timedelta

import numpy as np
import pandas as pd

from urisk_nb.errors import InputError
from urisk_nb.risk import formulas
from urisk_nb.risk.episodes import Episode
from urisk_nb.risk.inputs import Holding, Prices
from urisk_nb.risk.market import (
    Block,
    IntArray,
    Market,
    describe_bad_cells,
    find_as_of_date,
    read_market,
    split_into_blocks,
)
from urisk_nb.risk.metrics import NAN, FloatArray, quiet
from urisk_nb.risk.params import RiskParams
from urisk_nb.risk.positions import PORTFOLIO, Position, find_positions, join_returns, name_some
from urisk_nb.risk.values import count_noun

__all__ = ["EpisodeLoss", "measure_stress"]

MAX_BEYOND = timedelta(days=7)  # a weekend or a holiday at an end of the prices


@dataclass(frozen=True, slots=True, kw_only=True)
class EpisodeLoss:
    """
    What one ticker, or the portfolio, lost in an episode.

    Attributes
    ----------
    ticker
        The symbol, or "portfolio".
    start, end
        Dates of the first and last price that counted; None without two.
    n_obs
        How many returns counted.
    ret_total, max_dd
        Total return, and the deepest fall inside; NaN without two prices.
    flags, reason
        "no_data", "bad_data", "partial_episode", "wiped_out"; and a sentence, or None.
    """

    episode: str
    ticker: str
    start: pd.Timestamp | None = None
    end: pd.Timestamp | None = None
    n_obs: int = 0
    ret_total: float = NAN
    max_dd: float = NAN
    flags: tuple[str, ...] = ()
    reason: str | None = None


def measure_stress(
    prices: Prices,
    holdings: Sequence[Holding],
    column_of: Mapping[str, str | None],
    params: RiskParams,
) -> tuple[EpisodeLoss, ...]:
    """
    Return the losses of each episode: one a ticker, and the portfolio's where there are weights.

    The base is the first price inside the episode. Of returns, the first one inside is left out:
    its base is before the episode.

    Raises
    ------
    InputError
        An episode is outside of the prices by more than a week, or has fewer than two dates.
    """
    found: list[EpisodeLoss] = []
    for episode in params.stress or ():
        market = _read_episode(prices, params, episode)
        found += _measure_tickers(market, holdings, column_of, episode)
        if any(one.weight is not None for one in holdings):
            found.append(_measure_book(market, find_positions(holdings, column_of), episode))
    return tuple(found)


def _read_episode(prices: Prices, params: RiskParams, episode: Episode) -> Market:
    index = pd.DatetimeIndex(prices.close.index)
    last = min(find_as_of_date(prices, params), index[-1])
    first, used = index[0].date(), index[index <= last]
    until = used[-1].date() if len(used) else first
    if episode.start < first - MAX_BEYOND or episode.end > until + MAX_BEYOND:
        raise _build_outside(episode, first, until)
    inside = index[(index >= pd.Timestamp(episode.start)) & (index <= pd.Timestamp(episode.end))]
    inside = inside[inside <= last]
    if len(inside) < 2:
        raise InputError(
            f"stress={str(episode)!r} has {count_noun(len(inside), 'date')} of the prices, which "
            f"run from {first} to {until}; two are needed.",
            fix=_suggest_longer(episode, used),
        )
    start, end = inside[0].date(), inside[-1].date()
    return read_market(prices, replace(params, window=None, as_of=None, start=start, end=end))


def _suggest_longer(episode: Episode, dates: pd.DatetimeIndex) -> str:
    """Return the episode from the last price before it to the first one after it."""
    before = dates[dates < pd.Timestamp(episode.start)]
    after = dates[dates > pd.Timestamp(episode.end)]
    start = before[-1].date() if len(before) else episode.start
    end = after[0].date() if len(after) else episode.end
    near = replace(episode, start=start, end=end)
    inside = (dates >= pd.Timestamp(start)) & (dates <= pd.Timestamp(end))
    return f'stress="{near}"' if inside.sum() > 1 else "give a longer episode"


def _build_outside(episode: Episode, first: date, until: date) -> InputError:
    near = replace(episode, start=max(episode.start, first), end=min(episode.end, until))
    return InputError(
        f"stress={str(episode)!r} is outside of the prices, which run from {first} to {until}.",
        fix=f'stress="{near}"'
        if near.start < near.end
        else "leave it out, or give prices of these dates",
    )


def _measure_tickers(
    market: Market,
    holdings: Sequence[Holding],
    column_of: Mapping[str, str | None],
    episode: Episode,
) -> Iterator[EpisodeLoss]:
    columns = {column for column in column_of.values() if column is not None}
    wrong = {column: seen for column in columns if (seen := _find_fault(market, column))}
    places = sorted(market.position[column] for column in columns if column not in wrong)
    known: dict[str, EpisodeLoss] = {}
    for block in split_into_blocks(market, places, market.present):
        for place, loss in zip(block.places, _measure_block(market, block, episode), strict=True):
            known[market.columns[place]] = loss
    for one in holdings:
        column = column_of.get(one.symbol)
        if column in wrong:
            loss = EpisodeLoss(
                episode=episode.name, ticker="", flags=("bad_data",), reason=wrong[column]
            )
        else:
            loss = known.get(column or "", _miss(episode, "", "it has no column of prices."))
        yield replace(loss, ticker=one.symbol)


def _find_fault(market: Market, column: str) -> str | None:
    values = market.close[:, market.position[column]]
    return describe_bad_cells(market, column, values, f"column {column!r}")


def _miss(episode: Episode, ticker: str, reason: str) -> EpisodeLoss:
    return EpisodeLoss(episode=episode.name, ticker=ticker, flags=("no_data",), reason=reason)


@quiet
def _measure_block(market: Market, block: Block, episode: Episode) -> list[EpisodeLoss]:
    rows = block.calendar.rows
    if len(rows) < 2:
        seen = f"it has {'one price' if len(rows) else 'no price'} in the episode."
        return [_miss(episode, "", seen)] * len(block.places)
    path = _build_path(block.values) if market.is_returns else block.values
    depth, *_ = formulas.drawdown(path)
    bare = _describe_dates(market, rows, episode)
    return [
        replace(bare, ret_total=total, max_dd=fall)
        for total, fall in zip(formulas.total_return(path).tolist(), depth.tolist(), strict=True)
    ]


def _build_path(returns: FloatArray) -> FloatArray:
    """Return the wealth of 1 at the close that the second return begins from."""
    growth = np.cumprod(1 + returns[:, 1:], axis=1)
    return np.concatenate((np.ones((len(growth), 1)), growth), axis=1)


def _describe_dates(market: Market, rows: IntArray, episode: Episode) -> EpisodeLoss:
    """Return a loss with its dates; one that lacks an end of the episode says which part it has."""
    begin, last = market.dates[int(rows[0])], market.dates[int(rows[-1])]
    lacking = max(begin.date() - episode.start, episode.end - last.date())
    is_partial = lacking > MAX_BEYOND
    return EpisodeLoss(
        episode=episode.name,
        ticker="",
        start=begin,
        end=last,
        n_obs=len(rows) - 1,
        flags=("partial_episode",) if is_partial else (),
        reason=f"asked for {episode.start} to {episode.end}; the prices cover {begin.date()} to "
        f"{last.date()}."
        if is_partial
        else None,
    )


def _measure_book(market: Market, positions: Sequence[Position], episode: Episode) -> EpisodeLoss:
    """Return the portfolio's loss; nothing of it where a position has no prices inside."""
    if not positions:
        return _miss(episode, PORTFOLIO, "every weight is 0.")
    lost = [one.symbol for one in positions if not _has_prices(market, one.column)]
    if lost:
        verb = "has" if len(lost) == 1 else "have"
        return _miss(
            episode, PORTFOLIO, f"{name_some(lost)} {verb} no usable prices in the episode."
        )
    joint = join_returns(market, positions)
    rows = joint.calendar.rows
    if len(rows) < 2:
        return _miss(episode, PORTFOLIO, "its holdings share fewer than two dates.")
    total = np.sum(joint.parts[:, 1:] if market.is_returns else joint.parts, axis=0)
    loss = replace(_describe_dates(market, rows, episode), ticker=PORTFOLIO)
    if (total <= -1).any():
        covered = f"{loss.reason.rstrip('.')}; " if loss.reason else ""
        return replace(
            loss,
            flags=tuple(sorted({*loss.flags, "wiped_out"})),
            reason=f"{covered}it loses its whole capital in one period.",
        )
    path = np.concatenate(([1.0], np.cumprod(1 + total)))
    return replace(
        loss,
        ret_total=float(formulas.total_return(path)),
        max_dd=float(formulas.drawdown(path)[0]),
    )


def _has_prices(market: Market, column: str | None) -> bool:
    if column is None or _find_fault(market, column):
        return False
    return int(np.count_nonzero(market.present[:, market.position[column]])) >= 2
