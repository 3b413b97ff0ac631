"""
A front end without a browser: it keeps the widgets of a kernel as the kernel tells of them, clicks,
and says how often it looks.
"""

import html
import queue
import re
import time


class FakeFrontend:
    """
    Mirrors the widgets of a kernel (harness.Kernel) from its messages.

    Attributes
    ----------
    models
        The state of each widget that is open, by the id of its comm.
    outputs
        Displays of widgets, and what takes their places: kind, content.
    sent
        How many messages about widgets have come, and how many bytes their texts hold.
    """

    def __init__(self, kernel):
        self.kernel, self.models, self.outputs, self.sent, self._places = (
            kernel,
            {},
            [],
            [0, 0],
            set(),
        )

    def run(self, code, timeout=40):
        """Run a cell, and take in all that comes with it."""
        message_id, end = self.kernel.start(code), time.monotonic() + timeout
        self.until(lambda: self._idle == message_id, end - time.monotonic(), "the end of the cell")
        while (reply := self.kernel.client.get_shell_msg(timeout=timeout))["parent_header"].get(
            "msg_id"
        ) != message_id:
            pass
        assert reply["content"]["status"] == "ok", reply["content"]
        return reply

    _idle = ""

    def until(self, condition, within_s=10.0, what="it"):
        """Take in messages until the condition holds; its value."""
        end = time.monotonic() + within_s
        while not (value := condition()):
            if time.monotonic() > end:
                raise AssertionError(
                    f"{what} did not come true within {within_s:.1f} s: {self.text()[:2000]}"
                )
            self.take(0.05)
        return value

    def take(self, within_s):
        """Take in what comes within this time."""
        end = time.monotonic() + within_s
        while (left_s := end - time.monotonic()) > 0:
            try:
                self._hear(self.kernel.client.get_iopub_msg(timeout=left_s))
            except queue.Empty:
                return

    def _hear(self, message):
        kind, content = message["msg_type"], message["content"]
        if kind == "comm_open":
            self.models[content["comm_id"]] = dict(content["data"].get("state", {}))
        elif kind == "comm_close":
            self.models.pop(content["comm_id"], None)
        elif kind == "comm_msg" and content["data"].get("method") == "update":
            self.sent[0] += 1
            self.sent[1] += len(str(content["data"]["state"]))
            self.models.get(content["comm_id"], {}).update(content["data"]["state"])
        elif kind in ("display_data", "update_display_data") and self._is_a_place(content):
            self.outputs.append((kind, content))
        elif kind == "status" and content["execution_state"] == "idle":
            self._idle = message["parent_header"].get("msg_id", "")

    def _is_a_place(self, content):
        name = content["transient"].get("display_id")
        if any("widget-view" in kind for kind in content["data"]):
            self._places.add(name)
        return name in self._places

    # The dashboard --------------------------------------------------------------------------------

    @property
    def root(self):
        """The dashboard's root."""
        return next(
            comm
            for comm, state in self.models.items()
            if "urisk-dashboard" in state.get("_dom_classes", ())
        )

    def tree(self):
        """The states below the root, in their order."""

        def below(comm):
            state = self.models[comm]
            yield comm, state
            for child in state.get("children", ()):
                yield from below(child.removeprefix("IPY_MODEL_"))

        return list(below(self.root))

    def text(self):
        """What the dashboard says, without markup."""
        try:
            parts = [
                state["value"]
                for _, state in self.tree()
                if state.get("_model_name") == "HTMLModel"
            ]
        except (StopIteration, KeyError):
            return ""
        words = re.sub(r"<style>.*?</style>", "", " ".join(parts), flags=re.DOTALL)
        return re.sub(r"\s+", " ", html.unescape(re.sub(r"<[^>]+>", " ", words))).strip()

    def says(self, words, within_s=10.0):
        """Wait until the dashboard says this (a regular expression)."""
        return self.until(lambda: re.search(words, self.text()), within_s, repr(words))

    def buttons(self):
        """Which of the buttons that are shown can be pressed."""
        found = {}
        for _, state in self.tree():
            if (
                state.get("_model_name") == "ButtonModel"
                and state["description"]
                and self._is_shown(state)
            ):
                found[state["description"]] = not state["disabled"]
        return found

    def _is_shown(self, state):
        return self.models[state["layout"].removeprefix("IPY_MODEL_")].get("display") != "none"

    def click(self, words):
        """Press the last button with this description that can be pressed."""
        comm = [
            comm
            for comm, state in self.tree()
            if state.get("description") == words
            and not state.get("disabled")
            and self._is_shown(state)
        ][-1]
        self.send(comm, {"method": "custom", "content": {"event": "click"}})

    def set(self, comm, **state):
        """Tell the kernel what was chosen or counted in the browser."""
        self.send(comm, {"method": "update", "state": state, "buffer_paths": []})

    def send(self, comm, data):
        client = self.kernel.client
        client.shell_channel.send(client.session.msg("comm_msg", {"comm_id": comm, "data": data}))

    def choose(self, model, index):
        """Choose a line of a list or of a menu, by the name of its model."""
        comm = next(comm for comm, state in self.tree() if state.get("_model_name") == model)
        self.set(comm, index=index)
