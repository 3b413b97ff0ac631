"""
The files of a table: each is written whole or not at all.

It gets what a table shows and the report behind it, and knows no RiskTable.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from os import PathLike
from pathlib import Path
from typing import Any, BinaryIO

import pandas as pd

from urisk_nb.render.portfolio_content import list_views, read_portfolio
from urisk_nb.render.report_page import render_report_page
from urisk_nb.render.table_content import TableContent
from urisk_nb.table.parquet_files import pack_report
from urisk_nb.table.record_rows import list_record_rows
from urisk_nb.table.targets import check_target, open_target, require_package
from urisk_nb.table.workbook import Sheet, write_workbook

__all__ = [
    "PACKAGES",
    "is_workbook_target",
    "save_csv",
    "save_page",
    "save_parquet",
    "save_text",
    "save_workbook",
]

# The kind of file, its package, and how to get it
PACKAGES = {
    "Excel": ("openpyxl", 'pip install "urisk-nb[documents]"'),
    "Parquet": ("pyarrow", "pip install pyarrow"),
}
ARCHIVES = (".zip", ".tar")  # pandas names the file inside after the path


def is_workbook_target(target: Any, frame: pd.DataFrame) -> bool:
    """
    Tell whether a table goes there as a workbook of several sheets.

    Not to a pd.ExcelWriter, which has its own sheets, nor to an address or a file of another kind,
    nor where the frame has levels of columns.
    """
    if isinstance(target, pd.ExcelWriter) or frame.columns.nlevels > 1:
        return False
    if isinstance(target, str | PathLike):
        return _is_local(target) and Path(target).suffix.lower() == ".xlsx"
    return hasattr(target, "write")


def _is_local(path: Any) -> bool:
    """Tell whether it is a path of this machine, and no address such as s3://..."""
    return isinstance(path, str | PathLike) and "://" not in str(path)


def save_workbook(
    content: TableContent, report: Any, target: str | PathLike[str] | BinaryIO
) -> None:
    """Write the sheets table, findings, provenance, and those of the portfolio that there are."""
    require_package(PACKAGES["Excel"][0], "to_excel()", "Excel", PACKAGES["Excel"][1])
    findings = content.findings[content.findings["ticker"].isin(list(content.tickers))]
    record = pd.DataFrame(list_record_rows(content), columns=["run", "key", "value"])
    sheets = [
        Sheet(name="table", frames=[content.frame]),
        Sheet(name="findings", frames=[pd.DataFrame(findings).reset_index(drop=True)]),
        *_list_portfolio(content, report),
        Sheet(name="provenance", frames=[record]),
    ]
    if isinstance(target, str | PathLike):
        path = check_target(target, "to_excel()", ".xlsx")
        with open_target(path) as beside:
            write_workbook(sheets, beside)
    else:
        write_workbook(sheets, target)


def _list_portfolio(content: TableContent, report: Any) -> list[Sheet]:
    """Return the sheet of the portfolio, and one for each frame that the run was asked for."""
    views = [
        Sheet(name=name, frames=[frame]) for name, frame in list_views(report, content).items()
    ]
    if (read := read_portfolio(report, content)) is None:
        return views
    figures = pd.DataFrame({"figure": list(read.figures), "value": list(read.figures.values())})
    frames = [*read.tables.values(), figures.astype({"value": object})]
    return [Sheet(name="portfolio", frames=frames), *views]


def save_page(content: TableContent, report: Any, path: str | PathLike[str]) -> None:
    """Write the page of a report."""
    target = check_target(path, "to_html_report()", ".html")
    page = render_report_page(
        content,
        list_record_rows(content),
        prices=getattr(report, "prices", None),
        portfolio=read_portfolio(report, content),
        views=list_views(report, content),
    )
    with open_target(target) as beside:
        # Half of a surrogate pair is in no encoding
        beside.write_text(page, encoding="utf-8", errors="replace")


def save_text(text: str, target: Any, mode: str = "wt") -> None:
    """Write Markdown to a path or a buffer; a mode such as "a" is the user's own, as of `open`."""
    if not isinstance(target, str | PathLike):
        target.write(text)
    elif mode not in ("w", "wt"):
        with Path(target).expanduser().open(mode, encoding="utf-8") as file:
            file.write(text)
    else:
        _replace_file(target, "to_markdown()", lambda to: to.write_text(text, encoding="utf-8"))


def save_csv(write: Callable[..., Any], target: Any, options: Mapping[str, Any]) -> Any:
    """Write CSV by pandas' own `write`; a path of this machine is written whole or not at all."""
    is_archive = _is_local(target) and str(target).lower().endswith(ARCHIVES)
    if not _is_local(target) or is_archive or options.get("mode", "w") != "w":
        return write(target, **options)
    return _replace_file(target, "to_csv()", lambda to: write(to, **options))


def save_parquet(frame: pd.DataFrame, report: Any, path: Any, *args: Any, **options: Any) -> Any:
    """Write a frame as pandas does, with its report in the file's schema."""
    require_package(PACKAGES["Parquet"][0], "to_parquet()", "Parquet", PACKAGES["Parquet"][1])
    packed = frame.copy(deep=False)
    packed.attrs = frame.attrs | pack_report(report)
    if not _is_local(path) or "partition_cols" in options:
        return packed.to_parquet(path, *args, **options)
    return _replace_file(path, "to_parquet()", lambda to: packed.to_parquet(to, *args, **options))


def _replace_file(path: Any, where: str, write: Callable[[Path], Any]) -> Any:
    """Write a file beside the target, which then takes its place."""
    with open_target(check_target(path, where)) as beside:
        return write(beside)
