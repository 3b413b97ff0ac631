"""
Annual reports of companies that do not exist, as long as real ones: for much evidence.

The same seed gives the same text. Most sentences are routine; of a report of 2,000 sentences some
tell of trouble, so that a few dozen are worth asking about.
"""

import random
import textwrap
from pathlib import Path

PARTS = (
    ("Item 1. Business", 0.2),
    ("Item 1A. Risk Factors", 0.3),
    ("Item 3. Legal Proceedings", 0.05),
    ("Item 7. Management's Discussion and Analysis of Financial Condition", 0.2),
    ("Item 8. Financial Statements and Supplementary Data", 0.2),
    ("Item 9A. Controls and Procedures", 0.05),
)
WHO = ("We", "The Company", "Our segment {noun}", "Our subsidiary in {place}", "Management")
NOUNS = (
    *("paper mills", "cold stores", "toll roads", "dental clinics", "solar farms", "grain silos"),
    *("call centers", "dry docks", "data rooms", "feed plants", "tile works", "print shops"),
)
PLACES = ("Ohio", "Lisbon", "Quebec", "Osaka", "Gdansk", "Leeds", "Bahia", "Perth", "Turku")
DOES = (
    "operates {count} {noun} in {place} and sells most of their output under contracts of a year",
    "recognized revenue of ${amount} million from {noun}, compared with ${other} million in {last}",
    "leases {count} sites for {noun}, whose terms end between {year} and {later}",
    "employs {count} people at {noun} near {place}, of whom a third belong to a union",
    "competes with larger sellers of {noun} on price, on delivery and on service",
    "amortizes the cost of {noun} over {count} years by the straight-line method",
    "tests the goodwill of {noun} for impairment each year in the fourth quarter",
    "bought {noun} in {place} for ${amount} million in cash in {last}, net of cash acquired",
    "expects to spend about ${amount} million on {noun} in {later}, subject to permits in {place}",
    "paid dividends of ${other} million and bought back shares for ${amount} million",
)
MAY = (
    "If demand for {noun} in {place} falls, sales could decline, and we may have to close sites",
    "We may not be able to renew our permits for {noun} on terms that we can accept, or at all",
    "A failure of our systems at {noun} could expose us to claims that no insurance may cover",
    "We cannot assure you that our lenders would waive a breach of the covenants if one occurred",
    "Changes in the tax law of {place} could raise the cost of {noun} beyond what we can pass on",
    "Our customers may buy {noun} from others, and our revenue from {place} would then be lower",
)
TROUBLE = (
    "On {month} {day}, {year}, we received a notice of default on our loan of ${amount} million",
    "These conditions raise substantial doubt about our ability to continue as a going concern",
    "We identified a material weakness in our internal control over the revenue of {noun}",
    "In {month} {year}, a putative class action was filed against us in a court of {place}",
    "We recorded an impairment charge of ${amount} million on {noun} in {year}",
    "As of {month} {day}, {year}, we were not in compliance with our leverage covenant",
    "We received a subpoena from the regulator about our sales of {noun} in {place}",
    "We suspended our dividend in {month} {year} and laid off {count} people at {noun}",
    "A fire at {noun} in {place} on {month} {day}, {year} halted production for {count} days",
    "Net loss widened to ${amount} million in {year}, and operations used cash of ${other} million",
)
MONTHS = ("January", "March", "May", "June", "August", "October", "November")
SHARE_OF_TROUBLE = 0.04


def write_filing(ticker: str, sentences: int, seed: int = 0, *, changed: float = 0.0) -> str:
    """Return the text of a report of about so many sentences, a share of them other ones."""
    draw, other = random.Random(f"{ticker} {seed}"), random.Random(f"{ticker} {seed} other")
    name = f"{ticker} Holdings, Inc."
    parts = [
        "UNITED STATES\nSECURITIES AND EXCHANGE COMMISSION\nWashington, D.C. 20549",
        "FORM 10-K",
        "For the fiscal year ended December 31, 2024",
        f"{name}\n(Exact name of registrant as specified in its charter)",
        f"Common stock, par value $0.01    {ticker}    New York Stock Exchange",
    ]
    for heading, share in PARTS:
        parts.append(heading)
        found = [_write_sentence(draw, heading) for _ in range(round(sentences * share))]
        found = [
            _write_sentence(other, heading) if other.random() < changed else one for one in found
        ]
        parts += _write_paragraphs(draw, found)
        parts.append(_write_table(draw))
    parts.append(f"SIGNATURES\n\nDate: March 3, 2025\n\n{name}\n\nBy: /s/ A. Writer")
    return "\n\n".join(parts)


def write_folder(
    folder: Path, tickers: list[str], sentences: int, *, year: int = 2025, changed: float = 0.0
) -> None:
    """Write one report a ticker into a folder; two years differ in a share of their sentences."""
    folder.mkdir(parents=True, exist_ok=True)
    for ticker in tickers:
        text = write_filing(ticker, sentences, changed=changed)
        text = text.replace("March 3, 2025", f"March 3, {year}")
        (folder / f"{ticker}_10-K_{year}-03-03.txt").write_text(text, encoding="utf-8")


def _write_paragraphs(draw: random.Random, found: list[str]) -> list[str]:
    paragraphs = []
    while found:
        size = draw.randint(2, 7)
        paragraphs.append(textwrap.fill(" ".join(found[:size]), 110))
        del found[:size]
    return paragraphs


def _write_sentence(draw: random.Random, heading: str) -> str:
    if draw.random() < SHARE_OF_TROUBLE:
        text = draw.choice(TROUBLE)
    elif "Risk" in heading and draw.random() < 0.6:
        text = draw.choice(MAY)
    else:
        text = f"{draw.choice(WHO)} {draw.choice(DOES)}"
    year = draw.randint(2023, 2024)
    return (
        text.format(
            noun=draw.choice(NOUNS),
            place=draw.choice(PLACES),
            count=draw.randint(3, 900),
            amount=round(draw.uniform(1, 900), 1),
            other=round(draw.uniform(1, 900), 1),
            month=draw.choice(MONTHS),
            day=draw.randint(1, 28),
            year=year,
            last=year - 1,
            later=year + draw.randint(1, 9),
        )
        + "."
    )


def _write_table(draw: random.Random) -> str:
    rows = [f"{noun.capitalize():<24}" + f"{draw.randint(1, 9999):>12,}" * 3 for noun in NOUNS]
    return "\n".join([f"{'':<24}{'2024':>12}{'2023':>12}{'2022':>12}", *rows])
