"""`%urisk_latency`: the phases of calls with known delays, as a table and as a chart."""

import sys

import pytest

from fake_ollama import Rule, Scenario, ScriptedBackend, running
from urisk_nb import errors
from urisk_nb.llm.calls import Calls
from urisk_nb.llm.manager import LLMManager
from urisk_nb.llm.messages import Final
from urisk_nb.notebook import latencies

pytestmark = pytest.mark.slow  # a kernel of its own

DELAYS = Rule(answer=["a ", "b ", "c ", "d ", "e"], first_ms=80, token_ms=30)


@pytest.fixture(scope="module")
def calls():
    """
    Three calls, 80 ms to the first token and four times 30 ms after it, over a server that loads in
    50 ms.
    """
    with running(ScriptedBackend(Scenario(rules=[DELAYS], load_ms=50))) as server:
        manager = LLMManager.initialize_sync(url=server.url)
        for _ in range(3):
            manager.generate_sync("hi")
        yield latencies.build_table(manager.calls.records)
        manager.shutdown_sync()


@pytest.mark.timing
def test_phases_are_what_the_server_was_told_and_add_up(calls):
    """
    None shorter than the delays that were set, and the best of three within 15 ms of them, since a
    busy machine adds to one; together within 2 ms of the whole, by the server's clock, and no more
    than by ours.
    """
    assert list(calls.index) == [1, 2, 3]
    assert set(calls["outcome"]) == {"ok"}
    # What the prefix cache saved of the second and third prompt is in the queue: the fake Ollama's
    # delay is for the whole.
    assert 0.075 <= (calls["queue_s"] + calls["prompt_s"]).min() <= 0.095
    assert calls["prompt_s"][1] > 0.075
    assert 0.115 <= calls["generation_s"].min() <= 0.140
    assert (calls["load_s"] < 0.015).all(), "warmed before"
    phases = calls[["queue_s", "load_s", "prompt_s", "generation_s"]].sum(axis=1)
    assert ((phases - calls["server_total_s"]).abs() < 0.002).all()
    assert (calls["server_total_s"] <= calls["total_s"] + 0.002).all()
    assert (calls["tokens"] == 5).all()
    assert 4 / 0.140 <= calls["tokens_per_s"].max() <= 4 / 0.115, (
        "four of 30 ms each; the first is not among them"
    )


def test_each_figure_says_where_it_comes_from(calls):
    """No column without a source, and none the other way round."""
    assert list(calls.columns) == list(calls.attrs["source"])
    assert calls["asked_at"].is_monotonic_increasing
    assert str(calls["asked_at"].dt.tz) == "UTC"


def test_a_server_without_counters_leaves_gaps():
    """NaN, not zero: nothing was measured."""
    calls = Calls()
    calls.end(calls.begin(b"{}", "m"), Final(text="hi"))
    table = latencies.build_table(calls.records)
    assert (
        table[["queue_s", "load_s", "prompt_s", "generation_s", "server_total_s"]]
        .isna()
        .all(axis=None)
    )
    assert table["tokens_per_s"].isna().all()
    assert list(table["outcome"]) == ["ok"]


def test_calls_that_failed_are_rows_too():
    """With the error's name, and NaN for what was not measured; those under way are not."""
    calls = Calls()
    calls.begin(b"{}", "m")
    calls.fail(
        calls.begin(b"{}", "m"),
        errors.ServerConnectionLost("the connection broke.", fix="ask again"),
    )
    table = latencies.build_table(calls.records)
    assert list(table.index) == [2]
    assert list(table["outcome"]) == ["ServerConnectionLost"]
    assert table[["total_s", "prompt_s"]].isna().all(axis=None)


def test_no_calls_are_an_empty_table():
    """With its columns."""
    assert latencies.build_table([]).shape == (0, len(latencies.SOURCES))


def test_the_chart_stacks_the_phases(calls):
    """One bar a call; its parts are the columns."""
    figure = latencies.draw_latency(calls)
    assert [bar.name for bar in figure.data] == list(latencies.NAMES.values())
    assert [list(bar.y) for bar in figure.data] == [
        list(calls[phase]) for phase in latencies.PHASES
    ]
    assert figure.layout.barmode == "stack"


@pytest.mark.parametrize(
    ("hidden", "draw"),
    [
        ("plotly", latencies.draw_latency),
        ("anywidget", lambda table: latencies.draw_clickable(table, print)),
    ],
)
def test_a_chart_without_its_package_says_what_to_install(monkeypatch, calls, hidden, draw):
    """
    plotly and anywidget belong to the extra `notebook`: without them the error names the package
    and the extra.
    """
    # plotly looks for anywidget when it is imported
    for name in [name for name in sys.modules if name.partition(".")[0] in ("plotly", hidden)]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, hidden, None)
    with pytest.raises(errors.PackageMissing, match=hidden) as caught:
        draw(calls)
    assert 'pip install "urisk-nb[notebook]"' in caught.value.fix


def test_the_magic_returns_the_table_and_shows_the_chart(new_kernel, fake_ollama):
    """
    The DataFrame is the cell's value; `--plot` adds one figure; without a session the error says
    what to do.
    """
    kernel = new_kernel({"OLLAMA_URL": fake_ollama.url})
    kernel.good("%load_ext urisk_nb")
    assert kernel.run("%urisk_latency").ename == errors.NotInitialized.__name__
    kernel.good("%urisk_start")
    kernel.good("%%ask\nhi")
    assert (
        kernel.good("calls = %urisk_latency\nprint(len(calls), calls['tokens'][1] > 0)")
        .text()
        .strip()
        == "1 True"
    )
    cell = kernel.good("%urisk_latency --plot")
    charts = [
        content["data"]
        for _, content in cell.outputs
        if "application/vnd.plotly.v1+json" in content.get("data", {})
    ]
    # The toolbar of newer versions has a button that uploads the chart.
    assert [
        chart["application/vnd.plotly.v1+json"]["config"]["displayModeBar"] for chart in charts
    ] == [False]
    assert "generation_s" in cell.html
