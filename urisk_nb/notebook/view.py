"""The dashboard's widgets: one tree, which may be shown in many places. It reports clicks, and
knows nothing of servers.

Everything here is changed on one thread, the package's loop, since a widget is not safe between
threads. What the browser sends comes on another thread, and is handed over to the loop. traitlets
sends a value only when it differs from the one before, so an idle dashboard sends nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Any

from urisk_nb.render.markup import STYLE

__all__ = ["BUTTONS", "View", "close_all", "make_button"]

# Each button: what it says, its icon, and what it does, for the tooltip.
BUTTONS = {
    "start": ("Start", "play", "Find or start the server, and load the model"),
    "warm": ("Warm", "fire", "Load the model into memory"),
    "unload": ("Unload", "eject", "Remove the model from memory"),
    "restart": ("Restart", "refresh", "End the server and start another"),
    "stop": ("Stop", "stop", "End the session, and the server if it is managed by this session"),
    "calls": ("Inspect a call", "search", "Choose a call and see where its time went"),
}
PARTS = ("head", "alerts", "live", "figures")


class View:
    """
    The widgets.

    Parameters
    ----------
    on_click
        Called with a button's name, or `yes`, `no`; on whatever thread the click comes in.
    on_view
        Called with the number of places where the tree is shown, as the browser counts them.
    """

    def __init__(self, on_click: Callable[[str], Any], on_view: Callable[[int], Any]) -> None:
        import ipywidgets as widgets

        self.parts = {name: widgets.HTML() for name in PARTS}
        self.buttons = {
            name: make_button(
                partial(on_click, name), description=words, icon=icon, tooltip=tip, disabled=True
            )
            for name, (words, icon, tip) in BUTTONS.items()
        }
        self.message = widgets.HTML()
        self.yes = make_button(partial(on_click, "yes"), button_style="danger")
        self.no = make_button(partial(on_click, "no"))
        # Only the places with something in them: an empty box would still take room.
        self.question = widgets.HBox(
            [self.message, self.yes, self.no], layout={"align_items": "center", "display": "none"}
        )
        self.place = widgets.VBox([])
        controls = widgets.HBox(list(self.buttons.values()), layout={"flex_flow": "row wrap"})
        head, *others = self.parts.values()
        self.root = widgets.VBox(
            [widgets.HTML(STYLE), head, controls, self.question, *others, self.place],
            layout={"max_width": "980px"},
        )
        self.root.add_class("urisk-dashboard")
        # A number in place of None has the browser count the views; see ipywidgets' DOMWidget.
        self.root._view_count = 0
        self.root.observe(lambda change: on_view(int(change["new"] or 0)), "_view_count")

    def show(self, parts: Mapping[str, str]) -> None:
        """Send the parts that are new."""
        for name, markup in parts.items():
            self.parts[name].value = markup

    def enable(self, names: Iterable[str]) -> None:
        """Let these buttons be pressed, and no others."""
        wanted = set(names)
        for name, button in self.buttons.items():
            button.disabled = name not in wanted

    def say(self, markup: str, yes: str = "", no: str = "") -> None:
        """
        Write one line under the buttons: a question with two answers, work with a way to end it, or
        a word; nothing for nothing.
        """
        self.message.value = markup
        self.yes.description, self.no.description = yes, no
        for widget, words in ((self.yes, yes), (self.no, no), (self.question, markup)):
            widget.layout.display = None if words else "none"


def make_button(on_click: Callable[[], Any], **traits: Any) -> Any:
    """Return a button as wide as its words; `on_click` is called on the thread of the click."""
    import ipywidgets as widgets

    button = widgets.Button(layout={"width": "auto"}, **traits)
    button.on_click(lambda _: on_click())
    return button


def close_all(widget: Any) -> None:
    """
    Close a widget and all below it; closing the root alone leaves the rest with the browser for
    ever.
    """
    for child in getattr(widget, "children", ()):
        close_all(child)
    for name in ("style", "layout"):
        # A chart's layout is no widget
        if (close := getattr(getattr(widget, name, None), "close", None)) is not None:
            close()
    widget.close()
