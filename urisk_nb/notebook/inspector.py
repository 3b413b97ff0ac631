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
from urisk_nb.errors import UriskError
from urisk_nb.llm.calls import OK, CallRecord
from urisk_nb.notebook import call_panel, latencies
from urisk_nb.notebook.actions import DashboardActions, render_status
from urisk_nb.notebook.view import close_all, make_button

__all__ = ["Inspector"]

LISTED = 50
CHART = "The first chart takes some seconds: the browser is given 5 MB to draw it with."
ORDERS = {"newest": "newest first", "slowest": "slowest first", "failed": "failed or cancelled"}


class Inspector:
    """
    The list follows what happens until a call is chosen. Then it stands still until it is told to
    follow again.

    Parameters
    ----------
    records
        Returns the calls that have ended.
    post
        Has work done on the loop; clicks come in on other threads.
    actions
        Says what goes on in the line under the dashboard's buttons.
    """

    def __init__(
        self,
        records: Callable[[], Sequence[CallRecord]],
        post: Callable[[Callable[[], Any]], Any],
        actions: DashboardActions,
    ) -> None:
        import ipywidgets as widgets

        self._records, self._post, self._actions = records, post, actions
        self.chosen: int | None = None
        self.order = widgets.Dropdown(
            options=[(words, name) for name, words in ORDERS.items()],
            description="Order",
            layout={"width": "260px"},
        )
        follow = make_button(
            partial(post, self.follow),
            description="Follow",
            icon="step-forward",
            tooltip="Let the list follow new calls again",
        )
        chart = make_button(
            self._toggle_chart,
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
            [self.order, self.number, follow, chart], layout={"flex_flow": "row wrap"}
        )
        self.root = widgets.VBox([top, self.place, self.list, self.detail])
        self.order.observe(lambda _: post(self.follow), "value")
        for widget in (self.list, self.number):
            widget.observe(self._select, "value")
        self.update()

    def _select(self, change: dict[str, Any]) -> None:
        # What is set here, on the loop, is no choice: a new list of options selects its first one
        # by itself.
        if change["new"] is not None and not event_loop.on_loop():
            self._pick(int(change["new"]))

    def _pick(self, number: int) -> None:
        self._post(partial(self.choose, number))

    def update(self) -> None:
        """Show the calls that have ended since, unless one call is being looked at."""
        if self.chosen is not None:
            return
        records = self._records()
        options = [
            (call_panel.format_call(record), record.number)
            for record in self._sort(records)[:LISTED]
        ]
        if options != list(self.list.options):
            with self.list.hold_sync():
                self.list.options = options
                self.list.value = None
            with self.number.hold_sync():
                self.number.max = max((record.number for record in records), default=0)
                self.number.value = self.number.max

    def _sort(self, records: Sequence[CallRecord]) -> list[CallRecord]:
        if self.order.value == "slowest":
            return sorted(records, key=_elapsed_s, reverse=True)
        if self.order.value == "failed":
            records = [record for record in records if record.outcome != OK]
        return sorted(records, key=lambda record: record.number, reverse=True)

    def follow(self) -> None:
        """Choose no call, and follow new ones."""
        self.chosen, self.detail.value = None, ""
        self.list.value = None
        self.update()

    def choose(self, number: int) -> None:
        """Show this call."""
        self.chosen = self.number.value = number
        if number in dict(map(reversed, self.list.options)):
            self.list.value = number
        records = self._records()
        found = next((record for record in records if record.number == number), None)
        self.detail.value = (
            f'<div class="urisk muted">Call {number} is no longer kept: '
            "only the last 200 are.</div>"
            if found is None
            else call_panel.render_call(found, records)
        )

    def _toggle_chart(self) -> None:
        """
        Draw the chart, or take it away. Called on the thread of the click: loading plotly takes a
        second or two, which answers on the loop would have to wait.
        """
        if self.place.children:
            self._post(self.put)
            return
        self._post(partial(self._actions.say, render_status(CHART), 60.0))
        try:
            calls = sorted(self._records(), key=lambda record: record.number)
            chart = latencies.draw_clickable(latencies.build_table(calls), self._pick)
        except UriskError as exc:
            self._post(partial(self._actions.fail, exc.message, exc.fix))
        else:
            self._post(partial(self.put, chart))

    def put(self, *chart: Any) -> None:
        """Show the chart in place of the one before it; none takes it away."""
        before, self.place.children = self.place.children, chart
        is_closed = self.root.comm is None  # while the chart was made
        for old in (*before, *(chart if is_closed else ())):
            close_all(old)


def _elapsed_s(record: CallRecord) -> float:
    timing = record.timing
    return -math.inf if timing is None or math.isnan(timing.total_s) else timing.elapsed_s
