"""
The figures of the page: what each one is, which group measures it, and its goal if it has one.

The goals were set before anything was measured. A figure meets its goal if it is not above it.
`benchmarks/performance.py` refuses a figure that has no row here.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """
    A figure of the page.

    `goal` is the highest value allowed, in `unit`; None: no goal. `anchor` names what a ratio
    compares with.
    """

    key: str
    group: str
    what: str
    anchor: str = ""
    unit: str = "x"
    goal: float | None = None


GOALS = (
    Row(key="load_ext", group="start", what="`%load_ext urisk_nb`", unit="ms", goal=10),
    Row(
        key="load_ext heavy",
        group="start",
        what="heavy packages that it imports",
        unit="packages",
        goal=0,
    ),
    Row(key="generate", group="generate", what="`generate`", anchor="raw httpx", goal=1.03),
    Row(key="ask", group="ask", what="`%%ask`", anchor="raw httpx", goal=1.03),
    Row(
        key="risk",
        group="risk",
        what="`%%risk`",
        anchor="raw httpx, as many workers",
        goal=1.03,
    ),
    Row(
        key="quant long empyrical",
        group="quant",
        what="the table of 500 tickers",
        anchor="empyrical-reloaded, column by column",
        goal=1,
    ),
    Row(
        key="quant long",
        group="quant",
        what="a table of 500 tickers and ten years, no model",
        unit="s",
        goal=0.3,
    ),
    Row(
        key="quant wide",
        group="quant",
        what="a table of 10,000 tickers and one year, no model",
        unit="s",
        goal=2,
    ),
    Row(
        key="filing",
        group="filing",
        what="an annual report, from the file to its row",
        unit="s",
        goal=60,
    ),
    Row(
        key="filing asked",
        group="filing",
        what="sentences of it that the model is asked about",
        unit="sentences",
        goal=60,
    ),
    Row(
        key="filing again",
        group="filing",
        what="the same report again in the same kernel",
        unit="s",
        goal=1,
    ),
    Row(
        key="filing again asked",
        group="filing",
        what="sentences asked the second time",
        unit="sentences",
        goal=0,
    ),
    Row(
        key="kernel killed",
        group="lifetime",
        what="time from the end of a kernel to the end of its server",
        unit="s",
        goal=1,
    ),
    Row(
        key="replay differences",
        group="lifetime",
        what="`replay` without a server: differences from the run's table",
        unit="differences",
        goal=0,
    ),
    Row(
        key="servers 2", group="servers", what="two servers", anchor="the ideal makespan", goal=1.05
    ),
    Row(
        key="servers 4",
        group="servers",
        what="four servers",
        anchor="the ideal makespan",
        goal=1.05,
    ),
    Row(
        key="journal",
        group="journal",
        what="a run with a journal",
        anchor="the same run without one",
        goal=1.03,
    ),
)
CLIENTS = (
    *(
        Row(
            key=f"{key} {client}".strip(),
            group=key,
            what=f"{what}, {client or 'urisk_nb'}",
            anchor="raw httpx",
        )
        for key, what in (("generate", "one answer"), ("risk", "many answers"))
        for client in ("", "ollama-python", "langchain-ollama")
    ),
    Row(key="generate by stream()", group="generate", what="one answer, urisk_nb, `stream`"),
    Row(
        key="quant wide empyrical",
        group="quant",
        what="the table of 10,000 tickers",
        anchor="empyrical-reloaded, column by column",
    ),
)
MORE = (
    Row(key="load_ext pandas", group="start", what="`%load_ext`", anchor="`import pandas`"),
    Row(key="ask first token", group="ask", what="`%%ask`: delay of the first token"),
    Row(key="journal again", group="journal", what="a run whose answers are all in the journal"),
    Row(key="journal look-up", group="journal", what="looking up an answer in the journal"),
    Row(key="replay", group="lifetime", what="`replay`"),
    Row(key="call rate", group="documents", what="highest call rate of one session"),
    Row(key="judge rate", group="filing", what="labels by urisk-judge in the embedded engine"),
    Row(key="filings per hour", group="filing", what="annual reports at that rate"),
    Row(key="many rate", group="many", what="reading many annual reports"),
    Row(key="many memory", group="many", what="peak memory while reading them"),
    Row(key="many pause", group="many", what="longest time between two progress messages"),
    Row(
        key="kernels makespan", group="kernels", what="several kernels", anchor="the ideal makespan"
    ),
    Row(key="kernels fairness", group="kernels", what="the last kernel", anchor="the first one"),
    *(
        Row(
            key=f"kernel killed {way}",
            group="lifetime",
            what=f"time from {way} of a kernel to the end of its server",
        )
        for way in ("SIGKILL", "SIGTERM", "segfault")
    ),
    *(
        Row(key=f"servers {count}", group="servers", what=what, anchor="the ideal makespan")
        for count, what in ((1, "one server"), (3, "three servers"))
    ),
    *(
        Row(
            key=f"cluster {count}",
            group="cluster",
            what=f"a cluster of {count} worker{'s' if count > 1 else ''}",
            anchor="the ideal makespan",
        )
        for count in (1, 2, 4)
    ),
)
ROWS = {row.key: row for row in (*MORE, *CLIENTS, *GOALS)}
