"""
Look into one call: a list of calls to choose from, the call itself, and a chart of all on demand.
Widgets; changed on the loop alone.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from urisk_nb import event_loop
from urisk_nb.llm.calls import OK, CallRecord
from urisk_nb.notebook import call_panel, charts, latency_table
from urisk_nb.notebook.view import close_all, make_button

__all__ = ["Inspector"]

LISTED = 50
ORDERS = {"newest": "newest first", "slowest": "slowest first", "failed": "failed or cancelled"}


class Inspector:
    """
    The list follows what happens until a call is chosen; then it stands still until it is told to
    follow again.

    Parameters
    ----------
    clicked
        Called with `order`, `follow` or `chart`, on whatever thread the click comes in.
    chosen
        Called with the number of a call, likewise.
    """

    def __init__(self, clicked: Callable[[str], Any], chosen: Callable[[int], Any]) -> None:
        import ipywidgets as widgets

        self.chosen: int | None = None
        self._picked = chosen
        self.order = widgets.Dropdown(
            options=[(words, name) for name, words in ORDERS.items()],
            description="Order",
            layout={"width": "260px"},
        )
        self.follow = make_button(
            partial(clicked, "follow"),
            description="Follow",
            icon="step-forward",
            tooltip="Let the list follow new calls again",
        )
        self.chart = make_button(
            partial(clicked, "chart"),
            description="Chart",
            icon="bar-chart",
            tooltip="All calls as a chart; click a column to choose its call",
        )
        # JupyterLab keeps the arrow keys for its cells, but where something is typed: a list is of
        # no use by keyboard, a number is.
        self.number = widgets.BoundedIntText(
            description="Call", min=0, max=0, layout={"width": "180px"}
        )
        self.list = widgets.Select(
            options=[],
            rows=8,
            description="Choose a call",
            layout={"width": "auto", "max_width": "720px"},
        )
        self.list.add_class("urisk-calls")
        self.detail = widgets.HTML()
        self.place = widgets.VBox([])
        top = widgets.HBox(
            [self.order, self.number, self.follow, self.chart], layout={"flex_flow": "row wrap"}
        )
        self.root = widgets.VBox([top, self.place, self.list, self.detail])
        self.order.observe(lambda _: clicked("order"), "value")
        for widget in (self.list, self.number):
            widget.observe(self._selected, "value")

    def _selected(self, change: dict[str, Any]) -> None:
        # What is set here, on the loop, is no choice: a new list of options selects its first one
        # by itself.
        if change["new"] is not None and not event_loop.on_loop():
            self._picked(int(change["new"]))

    def update(self, records: Sequence[CallRecord]) -> None:
        """New calls have ended: the list shows them, unless one is being looked at."""
        if self.chosen is not None:
            return
        options = [
            (call_panel.format_call(record), record.number)
            for record in self._ordered(records)[:LISTED]
        ]
        if options != list(self.list.options):
            with self.list.hold_sync():
                self.list.options = options
                self.list.value = None
            with self.number.hold_sync():
                self.number.max = max((record.number for record in records), default=0)
                self.number.value = self.number.max

    def _ordered(self, records: Sequence[CallRecord]) -> list[CallRecord]:
        if self.order.value == "slowest":
            return sorted(records, key=_took_s, reverse=True)
        newest = sorted(records, key=lambda record: record.number, reverse=True)
        return (
            newest
            if self.order.value == "newest"
            else [record for record in newest if record.outcome != OK]
        )

    def forget(self, records: Sequence[CallRecord]) -> None:
        """Choose none, and follow."""
        self.chosen, self.detail.value = None, ""
        self.list.value = None
        self.update(records)

    def choose(self, number: int, records: Sequence[CallRecord]) -> None:
        """Show this call."""
        self.chosen = self.number.value = number
        if number in dict(map(reversed, self.list.options)):
            self.list.value = number
        found = next((record for record in records if record.number == number), None)
        self.detail.value = (
            f'<div class="urisk muted">Call {number} is no longer kept: '
            "only the last 200 are.</div>"
            if found is None
            else call_panel.render_call(found, records)
        )

    @property
    def is_drawn(self) -> bool:
        """Whether the chart is there."""
        return bool(self.place.children)

    def make_chart(self, records: Sequence[CallRecord]) -> Any:
        """
        Return the chart of these calls, for `put`. Not on the loop: loading plotly takes a second,
        which answers would have to wait.

        Raises
        ------
        PackageMissing
            plotly's widget needs anywidget.
        """
        return charts.draw_clickable(
            latency_table.build_table(sorted(records, key=lambda record: record.number)),
            self._picked,
        )

    def put(self, *chart: Any) -> None:
        """Show the chart in place of the one before it; none takes it away."""
        before, self.place.children = self.place.children, chart
        for old in before:
            close_all(old)


def _took_s(record: CallRecord) -> float:
    timing = record.timing
    return -math.inf if timing is None or math.isnan(timing.total_s) else timing.elapsed_s
