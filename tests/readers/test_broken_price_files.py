"""Broken files of prices end in prices or in an error of ours: in bounded time, nothing else."""

from __future__ import annotations

import random
import time
import zipfile

import numpy as np
import pandas as pd
import pytest

from urisk_nb.errors import InputError
from urisk_nb.readers.prices import read_prices

pytestmark = pytest.mark.slow  # hundreds of damaged files

DAYS = pd.bdate_range("2024-01-01", periods=30, name="Date")
FRAME = pd.DataFrame({"NVDA": np.linspace(1, 2, 30), "MSFT": np.linspace(3, 4, 30)}, index=DAYS)
WRITERS = {
    ".csv": FRAME.to_csv,
    ".tsv": lambda path: FRAME.to_csv(path, sep=";", decimal=","),
    ".xlsx": FRAME.to_excel,
    ".parquet": FRAME.to_parquet,
}


def damage(content, rng):
    """Change, drop, insert and repeat some bytes."""
    content = bytearray(content)
    for _ in range(rng.randint(1, 8)):
        place = rng.randrange(max(1, len(content)))
        kind = rng.randrange(4)
        if kind == 0:
            content[place : place + 1] = rng.randbytes(1)
        elif kind == 1:
            del content[place : place + rng.randint(1, 30)]
        elif kind == 2:
            content[place:place] = rng.randbytes(rng.randint(1, 10))
        else:
            content[place:place] = content[max(0, place - 40) : place]
    return bytes(content)


def read_or_refuse(path):
    refused = None
    try:
        read_prices(path, tickers=["NVDA"])
    except InputError as exc:
        refused = exc
    assert refused is None or (refused.fix and len(str(refused)) < 2000)


@pytest.mark.parametrize("suffix", WRITERS)
def test_a_damaged_file_is_read_or_refused(tmp_path, suffix):
    """Forty damages of each kind of file."""
    WRITERS[suffix](tmp_path / f"whole{suffix}")
    whole = (tmp_path / f"whole{suffix}").read_bytes()
    rng = random.Random(3)
    for number in range(40):
        path = tmp_path / f"{number}{suffix}"
        path.write_bytes(damage(whole, rng))
        read_or_refuse(path)
        path.write_bytes(whole[: rng.randrange(len(whole))])
        read_or_refuse(path)


def test_a_damaged_part_of_a_workbook_is_read_or_refused(tmp_path):
    """A sound zip with a broken or missing part, and one whose XML multiplies itself."""
    WRITERS[".xlsx"](tmp_path / "whole.xlsx")
    with zipfile.ZipFile(tmp_path / "whole.xlsx") as packed:
        parts = {name: packed.read(name) for name in packed.namelist()}
    rng = random.Random(4)

    def pack(changed):
        with zipfile.ZipFile(tmp_path / "p.xlsx", "w") as packed:
            for name, content in {**parts, **changed}.items():
                if content is not None:
                    packed.writestr(name, content)
        read_or_refuse(tmp_path / "p.xlsx")

    for name, content in parts.items():
        pack({name: None})
        for _ in range(5):
            pack({name: damage(content, rng)})
    entities = "".join(
        f'<!ENTITY e{number} "{f"&e{number - 1};" * 10}">' for number in range(1, 10)
    )
    bomb = f'<!DOCTYPE x [<!ENTITY e0 "aaaaaaaaaa">{entities}]><worksheet>&e9;</worksheet>'
    pack({"xl/worksheets/sheet1.xml": f'<?xml version="1.0"?>{bomb}'})


LONG = {
    "a line without end": "Date,NVDA\n" + "x" * 10_000_000,
    "a quote without end": 'Date,NVDA\n"' + "x," * 1_000_000,
    "a header without end": "Date," + "N" * 10_000_000 + "\n2024-01-01,1\n",
    "digits without end": "Date,NVDA\n2024-01-01," + "1" * 5_000_000 + "\n",
    "separators without end": "Date,NVDA\n2024-01-01,1" + "," * 1_000_000 + "\n",
}


@pytest.mark.parametrize("case", LONG)
def test_a_file_without_end_takes_bounded_time(tmp_path, case):
    """No pattern walks back and forth in a long text."""
    (tmp_path / "p.csv").write_text(LONG[case])
    begun = time.process_time()
    read_or_refuse(tmp_path / "p.csv")
    assert time.process_time() - begun < 10
