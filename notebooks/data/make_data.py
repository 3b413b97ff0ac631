"""
Make the files of notebook 03: three invented companies, as their data usually arrives. The prices
of notebook 04, a book of the same companies with a market and a bond. And the prices of notebook
06, whose reports lie in `annual_reports` as they were written.

Prices are random numbers with a fixed seed. The documents were written for these notebooks. Run
from anywhere: `python notebooks/data/make_data.py`.
"""

import json
import zlib
from pathlib import Path

import numpy as np
import pandas as pd

FOLDER = Path(__file__).parent
TICKERS = ["ALDR", "BORO", "CEDR"]
DAYS = pd.bdate_range("2024-03-01", "2025-03-14")
# Notebook 06: closing prices of these days, which fit what the reports say
ANCHORS = {
    "HLVN": {
        "2024-01-02": 2.74,
        "2024-06-28": 1.36,
        "2024-08-02": 1.05,
        "2024-08-05": 0.96,
        "2024-09-16": 0.78,
        "2025-03-31": 0.44,
    },
    "TSRD": {"2024-01-02": 14.60, "2024-06-28": 15.10, "2025-03-31": 17.90},
}

ITEM_1A = [
    "We depend on one foundry in Taiwan for all of our advanced wafers.",
    "In August 2024, an earthquake stopped it for nine days, and we missed $38 million of sales.",
    "Our largest customer, which accounted for 41% of revenue, may reduce its orders at any time.",
]
ITEM_3 = [
    "On October 7, 2024, a court ordered us to stop bundling our drivers and fined us $12 million.",
    "We have appealed the order.",
]
ITEM_7 = [
    "Revenue rose 14% to $1.2 billion.",
    "Gross margin was 52.1%, compared with 51.8% a year earlier.",
]
PDF_PAGES = [
    [
        "Borough Bank annual report 2024",
        "Deposits fell by 18% in the fourth quarter as customers moved to money market funds.",
        "We breached the leverage covenant of our term loan on December 31, 2024, and the lenders",
        "granted a waiver until June 30, 2025.",
    ],
    [
        "Our branches in three counties were closed for two days after a software update failed.",
        "The dividend was left unchanged.",
    ],
]
NOTE = """# Cedar Foods, visit to the plant

- The new line runs at 60% of its capacity.
- Management expects a recall of one batch of oat milk to cost $4 million.

Cash covers eleven months of spending.
"""
CALL = """Cedar Foods, first quarter call, 14 February 2025

Operator: Good morning, and welcome.
Chief financial officer: Our auditor has resigned, and we will file our annual report late.
Chief financial officer: We drew the rest of our credit line in January.
"""
NEWS = [
    {
        "title": "Regulator fines Alder Chips $12 million",
        "description": "The commission says that bundled drivers shut out rivals.",
        "url": "https://news.example/alder-fine",
        "publishedAt": "2024-10-08T09:15:00Z",
        "source": {"id": None, "name": "Example Wire"},
        "symbols": ["ALDR"],
    },
    {
        "title": "Borough Bank Downgraded to BB; Outlook Negative",
        "description": "",
        "url": "https://news.example/borough-rating",
        "publishedAt": "2024-11-20T16:40:00Z",
        "source": {"id": None, "name": "Example Wire"},
        "symbols": ["BORO"],
    },
    {
        "title": "Chip tariffs hit Alder Chips and, through packaging, Cedar Foods",
        "description": "Both expect higher costs next year.",
        "url": "https://news.example/tariffs",
        "publishedAt": "2024-12-03T07:00:00Z",
        "source": {"id": None, "name": "Example Daily"},
        "symbols": ["ALDR", "CEDR"],
    },
    {
        "title": "A company that is in no cell opens a shop",
        "description": "It sells tea.",
        "url": "https://news.example/tea",
        "publishedAt": "2024-12-05T07:00:00Z",
        "source": {"id": None, "name": "Example Daily"},
        "symbols": ["TEAS"],
    },
]


def make_prices():
    """As `yf.download(TICKERS, auto_adjust=False)` returns them: (Price, Ticker) columns."""
    rng = np.random.default_rng(11)
    steps = rng.normal([0.0006, -0.0004, 0.0001], [0.022, 0.013, 0.017], (len(DAYS), 3))
    adjusted = pd.DataFrame(50 * np.exp(steps.cumsum(axis=0)), index=DAYS, columns=TICKERS)
    close = adjusted.copy()
    close.loc[close.index < "2024-07-01", "ALDR"] *= 10  # a split of ten for one on July 1
    volume = pd.DataFrame(rng.integers(100_000, 900_000, close.shape), index=DAYS, columns=TICKERS)
    parts = {
        "Adj Close": adjusted.round(4),
        "Close": close.round(4),
        "High": (close * 1.01).round(4),
        "Low": (close * 0.99).round(4),
        "Open": close.shift(1).fillna(close).round(4),
        "Volume": volume,
    }
    return pd.concat(parts, axis=1, names=["Price", "Ticker"]).rename_axis("Date")


def make_report_prices():
    """One column a ticker: a random walk through its ANCHORS, daily steps of 4.5 % and 1.1 %."""
    rng = np.random.default_rng(22)
    found = {}
    for (ticker, anchors), size in zip(ANCHORS.items(), (0.045, 0.011), strict=True):
        fixed = pd.Series(anchors).rename(pd.to_datetime)
        days = pd.bdate_range(fixed.index[0], fixed.index[-1])
        walk = pd.Series(rng.normal(0, size, len(days)).cumsum(), index=days)
        # The straight line between two anchors replaces that of the walk
        lines = (np.log(fixed) - walk[fixed.index]).reindex(days).interpolate()
        found[ticker] = np.exp(walk + lines).round(4)
    return pd.DataFrame(found).rename_axis("date")


def make_portfolio_prices():
    """
    Daily closes of three companies, a market and a bond: calm and wild months, two falls.

    Each company moves with the market and the bond by its own betas, and by itself.
    """
    rng = np.random.default_rng(4)
    days = pd.bdate_range("2021-01-04", "2025-03-31")
    wild = pd.Series(1.0, index=days)
    wild["2022-09-01":"2022-10-31"] = 2.6
    wild["2024-07-01":] = 2.2
    market = 0.0004 + 0.006 * wild.to_numpy() * rng.standard_t(6, len(days))
    market[days.get_indexer(["2022-09-13", "2024-08-02", "2024-08-05"])] = -0.043, -0.028, -0.051
    bond = 0.0001 - 0.05 * market + 0.004 * rng.normal(size=len(days))
    betas = {"ALDR": (1.7, -0.2, 0.011), "BORO": (1.1, -0.9, 0.008), "CEDR": (0.5, 0.2, 0.006)}
    moves = {
        ticker: of_market * market + of_bond * bond + size * rng.standard_t(5, len(days))
        for ticker, (of_market, of_bond, size) in betas.items()
    }
    frame = pd.DataFrame({**moves, "MKT": market, "BOND": bond}, index=days)
    return (100 * (1 + frame).cumprod()).round(2).rename_axis("date")


def make_html():
    """A 10-K as EDGAR serves it: inline XBRL, a table of contents, a table of numbers."""
    sections = [
        ("Item 1A.", "Risk Factors", ITEM_1A),
        ("Item 3.", "Legal Proceedings", ITEM_3),
        ("Item 7.", "Management\N{RIGHT SINGLE QUOTATION MARK}s Discussion and Analysis", ITEM_7),
    ]
    contents = "".join(
        f"<tr><td><a href='#s{n}'>{item}</a></td><td>{title}</td><td>{9 * n + 4}</td></tr>"
        for n, (item, title, _) in enumerate(sections)
    )
    body = "".join(
        f"<div id='s{n}'><p><b>{item} {title}</b></p>"
        + "".join(f"<p>{text.replace('$12', '<span>$12</span>')}</p>" for text in texts)
        + "</div>"
        for n, (item, title, texts) in enumerate(sections)
    )
    return f"""<?xml version="1.0" encoding="UTF-8"?>
<html xmlns="http://www.w3.org/1999/xhtml" xmlns:ix="http://www.xbrl.org/2013/inlineXBRL">
<head><title>aldr-20241231</title></head><body>
<div style="display:none"><ix:header><ix:hidden>0001234567 FY false</ix:hidden></ix:header></div>
<p>UNITED STATES SECURITIES AND EXCHANGE COMMISSION</p><p>FORM 10-K</p>
<p>For the fiscal year ended December 31, 2024</p><p>Alder Chips, Inc.</p>
<p>Trading Symbol: ALDR</p>
<table>{contents}</table>
{body}
<table><tr><td></td><td>2024</td><td>2023</td></tr><tr><td>Revenue</td><td>1,204</td><td>1,056</td></tr>
<tr><td>Cost of revenue</td><td>577</td><td>509</td></tr></table>
</body></html>
"""


def make_pdf(pages):
    """A PDF file with lines of text in Helvetica, one list a page."""
    objects = [
        b"<< /Type /Catalog /Pages 2 0 R >>",
        b"",
        b"<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica >>",
    ]
    kids = []
    for lines in pages:
        shown = "".join(
            f"({line.replace('(', chr(92) + '(').replace(')', chr(92) + ')')}) Tj T*\n"
            for line in lines
        )
        stream = zlib.compress(f"BT /F1 11 Tf 14 TL 50 780 Td\n{shown}ET".encode("cp1252"))
        objects.append(
            b"<< /Length %d /Filter /FlateDecode >>\nstream\n%s\nendstream" % (len(stream), stream)
        )
        objects.append(
            b"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 595 842] /Contents %d 0 R "
            b"/Resources << /Font << /F1 3 0 R >> >> >>" % len(objects)
        )
        kids.append(b"%d 0 R" % len(objects))
    objects[1] = b"<< /Type /Pages /Kids [%s] /Count %d >>" % (b" ".join(kids), len(kids))
    out, places = b"%PDF-1.4\n", []
    for number, content in enumerate(objects, 1):
        places.append(len(out))
        out += b"%d 0 obj\n%s\nendobj\n" % (number, content)
    rows = b"".join(b"%010d 00000 n \n" % place for place in places)
    count = len(objects) + 1
    return out + (
        b"xref\n0 %d\n0000000000 65535 f \n%s"
        b"trailer << /Size %d /Root 1 0 R >>\nstartxref\n%d\n%%%%EOF\n"
        % (count, rows, count, len(out))
    )


def main():
    prices = make_prices()
    prices.to_csv(FOLDER / "yfinance.csv")
    make_portfolio_prices().to_csv(FOLDER / "portfolio_prices.csv")
    make_report_prices().to_csv(FOLDER / "report_prices.csv")
    book = prices["Adj Close"].rename(columns="{} US Equity".format).rename_axis("Dates")
    book.to_excel(FOLDER / "terminal.xlsx", sheet_name="Prices")
    (FOLDER / "news.json").write_text(
        json.dumps({"status": "ok", "totalResults": len(NEWS), "articles": NEWS}, indent=1),
        encoding="utf-8",
    )
    filings = FOLDER / "filings"
    (filings / "CEDR").mkdir(parents=True, exist_ok=True)
    (filings / "ALDR_10-K_2025-02-20.html").write_text(make_html(), encoding="utf-8")
    (filings / "BORO_annual_report_2025-03-04.pdf").write_bytes(make_pdf(PDF_PAGES))
    (filings / "CEDR" / "2025-02-03_note.md").write_text(NOTE, encoding="utf-8")
    (filings / "CEDR_call_2025-02-14.txt").write_text(CALL, encoding="cp1252")
    (filings / "logo.png").write_bytes(b"\x89PNG\r\n\x1a\n")


if __name__ == "__main__":
    main()
