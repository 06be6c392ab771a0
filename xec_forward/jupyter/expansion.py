"""`$name` and `{expression}` on a line, by IPython's rules; a target made in Python is used as it is."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from IPython.utils.text import DollarFormatter

if TYPE_CHECKING:
    from ..options import ClusterTarget, SshTarget

_CLIENT = "xec_forward.client"


def expand(text: str, names: Mapping[str, Any]) -> tuple[str, Mapping[str, SshTarget | ClusterTarget]]:
    """The line with the expansions done, and what the words mean that stand for targets made in Python.

    Args:
        names: what can be named.
    """
    if "$" not in text and "{" not in text:
        return text, {}
    formatter = _Formatter()
    try:
        expanded = formatter.vformat(text, args=[], kwargs=names)
    except Exception:
        # As IPython's own expansion does: a line that cannot be expanded is taken as it is.
        return text, {}
    return expanded, formatter.targets


class _Formatter(DollarFormatter):
    """IPython's rules for `$name` and `{expression}`, but for a target made in Python: a word stands for it."""

    def __init__(self) -> None:
        super().__init__()
        self.targets: dict[str, SshTarget | ClusterTarget] = {}

    def format_field(self, value: Any, format_spec: str) -> Any:
        # A target can only be there if its module is: no need to load it for every line.
        made = ((f"{_CLIENT}.targets", "Ssh"), (f"{_CLIENT}.cluster", "Cluster"))
        kinds = tuple(getattr(sys.modules[module], name) for module, name in made if module in sys.modules)
        if not isinstance(value, kinds):
            return super().format_field(value, format_spec)
        word = f"target-{len(self.targets) + 1}.invalid"
        self.targets[word] = value.target
        return word
