"""A front-end's side of ipywidgets: it follows the models that a kernel makes, and presses and types as a person would.

    with Frontend(kernel) as frontend:
        kernel.run("%forward --panel").ok()
        frontend.press("Close pg")

The models are those of the widget messaging protocol (ipywidgets, packages/schema/messages.md). It is another client
than the one that runs the cells. With a subshell, as JupyterLab has one for all widgets, its messages carry its id.
"""

from __future__ import annotations

import os
import queue
import re
import time
from collections.abc import Callable, Iterator
from html import unescape
from types import TracebackType
from typing import Any

from tests.peers.kernel import Kernel

VIEW = "application/vnd.jupyter.widget-view+json"


class Frontend:
    """One front-end that shows widgets.

    Args:
        subshell: whether it sends widgets' messages over a subshell of their own, where the kernel has such.
        same: whether it is the page from which the cells are run.

    Attributes:
        models: the state of each widget that is there, by its id.
        heard: every message on iopub as text: what no secret may be in.
        updates: when each update of a widget came, seconds of `time.monotonic`.
        displayed: the HTML of each display beside the widgets, and of each update of one, in order.
    """

    def __init__(self, kernel: Kernel, *, subshell: bool = True, same: bool = False) -> None:
        self.models: dict[str, dict[str, Any]] = {}
        self.heard: list[str] = []
        self.updates: list[float] = []
        self.displayed: list[str] = []
        client = kernel.manager.client(session=kernel.client.session.clone())
        client.session.session = f"widgets-{os.urandom(4).hex()}"
        self._client: Any = client
        self._page = kernel.client.session.session if same else client.session.session
        client.start_channels(stdin=False, hb=False)
        client.wait_for_ready(timeout=30)
        self.subshell = self._make_subshell() if subshell else None

    def __enter__(self) -> Frontend:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._client.stop_channels()

    def _make_subshell(self) -> str | None:
        self._client.kernel_info()
        features = self._client.get_shell_msg(timeout=30)["content"].get("supported_features", [])
        if "kernel subshells" not in features:
            return None
        self._client.control_channel.send(self._client.session.msg("create_subshell_request", {}))
        return str(self._client.get_control_msg(timeout=30)["content"]["subshell_id"])

    # ---- what is heard ----

    def listen(self, seconds: float = 0.0) -> None:
        """Take what has come, and what comes for so long."""
        end = time.monotonic() + seconds
        while True:
            try:
                self._take(self._client.get_iopub_msg(timeout=max(0.0, end - time.monotonic())))
            except queue.Empty:
                if time.monotonic() >= end:
                    return

    def until(self, condition: Callable[[], object], failure: str, within: float = 10.0) -> float:
        """Listen until a condition holds; how long that took, seconds."""
        start = time.monotonic()
        while True:
            self.listen()
            if condition():
                return time.monotonic() - start
            if time.monotonic() - start > within:
                raise AssertionError(f"{failure} within {within} s; shown: {self.text()}")
            self.listen(0.01)

    def _take(self, message: dict[str, Any]) -> None:
        kind, content = message["header"]["msg_type"], message["content"]
        self.heard.append(str(content))
        data = content.get("data", {})
        if kind == "comm_open" and content["target_name"] == "jupyter.widget":
            self.models[content["comm_id"]] = dict(data["state"])
        elif kind in ("display_data", "update_display_data") and VIEW not in data:
            self.displayed.append(data.get("text/html", ""))
        elif kind == "comm_close":
            self.models.pop(content["comm_id"], None)
        elif kind == "comm_msg" and data.get("method") == "update" and content["comm_id"] in self.models:
            self.models[content["comm_id"]].update(data["state"])
            self.updates.append(time.monotonic())

    # ---- what is shown ----

    def shown(self, root: str) -> Iterator[dict[str, Any]]:
        """A widget and all in it, in the order in which they are shown; without what is hidden."""
        model = self.models[root]
        layout = self.models.get(str(model.get("layout", "")).removeprefix("IPY_MODEL_"), {})
        if layout.get("display") == "none":
            return
        yield {**model, "id": root}
        for child in model.get("children", []):
            yield from self.shown(child.removeprefix("IPY_MODEL_"))

    @property
    def root(self) -> str:
        """The one box that is in no other."""
        children = {child.removeprefix("IPY_MODEL_") for m in self.models.values() for child in m.get("children", [])}
        boxes = [each for each, model in self.models.items() if "children" in model and each not in children]
        assert len(boxes) == 1, boxes
        return boxes[0]

    def text(self) -> str:
        """All that is shown, as text."""
        try:
            shown = list(self.shown(self.root))
        except (AssertionError, KeyError) as error:
            return f"(no panel: {error!r})"
        texts = [str(model.get("value", "")) for model in shown if model["_view_name"] == "HTMLView"]
        return unescape(re.sub("<[^>]*>", "", "\n".join(texts))).replace("\N{NO-BREAK SPACE}", " ")

    def find(self, label: str) -> dict[str, Any]:
        """The widget of that description, or tooltip."""
        for model in self.shown(self.root):
            if label in (model.get("description"), model.get("tooltip")):
                return model
        raise AssertionError(f"nothing is called {label}; shown: {self.text()}")

    # ---- what a person does ----

    def press(self, label: str) -> None:
        """Press a button."""
        self._send(self.find(label)["id"], {"method": "custom", "content": {"event": "click"}})

    def type(self, label: str, value: object) -> None:
        """Leave a field with this in it."""
        model = self.find(label)
        name = "index" if "index" in model else "value"
        self.models[model["id"]][name] = value
        self._send(model["id"], {"method": "update", "state": {name: value}, "buffer_paths": []})

    def _send(self, model: str, data: dict[str, Any]) -> None:
        message = self._client.session.msg("comm_msg", {"comm_id": model, "data": data})
        message["header"]["session"] = self._page
        if self.subshell:
            message["header"]["subshell_id"] = self.subshell
        self._client.shell_channel.send(message)
