"""Something that is shown, as text and as HTML, and the parts that HTML is made of. Ground floor, no I/O."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable
from dataclasses import dataclass
from html import escape

from ..model import TunnelState
from .facts import Facts
from .sparkline import drawing

# The front-end's own font for code where it says which: JupyterLab and nbconvert, VS Code.
FONT = (
    "font-family:var(--jp-code-font-family,var(--vscode-editor-font-family,monospace));"
    "font-size:var(--jp-code-font-size,90%);line-height:1.45;color:inherit"
)
_DIM = "opacity:.75"
# A colour for the sign alone, where the front-end's theme has one.
_TONES = {
    TunnelState.READY: "success",
    TunnelState.RECONNECTING: "warn",
    TunnelState.WAITING: "warn",
    TunnelState.DEGRADED: "warn",
    TunnelState.FAILED: "error",
}


class View(ABC):
    """Something that is shown: `plain()` and `html()` say the same."""

    @abstractmethod
    def plain(self) -> str:
        """As text, without a newline at its end."""

    @abstractmethod
    def html(self) -> str:
        """As HTML."""

    def _repr_mimebundle_(self, include: object = None, exclude: object = None) -> dict[str, str]:
        return {"text/plain": self.plain(), "text/html": self.html()}

    def __repr__(self) -> str:
        return self.plain()


@dataclass(frozen=True, slots=True, repr=False)
class Text(View):
    """A line or several as they are."""

    text: str

    def plain(self) -> str:
        return self.text

    def html(self) -> str:
        return block(escape(self.text)) if self.text else ""


def block(content: str) -> str:
    """HTML whose line breaks and columns are kept."""
    return f'<div style="{FONT};white-space:pre-wrap">{content}</div>'


def lines(content: Iterable[str]) -> str:
    """Lines of HTML, of which the first one heads the others."""
    head, *rest = content
    under = "".join(f'\n<div style="padding-left:2ch;overflow-wrap:anywhere">{line}</div>' for line in rest)
    return f'<div style="{FONT}">\n<div style="overflow-wrap:anywhere">{head}</div>{under}\n</div>'


def dim(text: str) -> str:
    """A text that counts less; it breaks behind its commas alone."""
    parts = [f'<span style="display:inline-block">{escape(part)}</span>' for part in text.split(", ")]
    return f'<span style="{_DIM}">{", ".join(parts)}</span>'


def signed(facts: Facts) -> str:
    """Its state: a sign and a word."""
    tone = _TONES.get(facts.snapshot.state)
    colour = f"color:var(--jp-{tone}-color1,currentColor)" if tone else "color:inherit"
    state = escape(str(facts.snapshot.state))
    return f'<span style="white-space:nowrap"><span style="{colour}">{facts.sign}</span> {state}</span>'


def hops(facts: Facts) -> str:
    """Its way, which breaks between the hops alone."""
    arrow = f'<span style="{_DIM}"> → </span>'
    # A long name of its own may break anywhere all the same.
    each = [f'<span style="display:inline-block;max-width:100%">{escape(hop)}</span>' for hop in facts.snapshot.way]
    return arrow.join(each)


def movement(facts: Facts) -> str:
    """What moves now, and what did lately."""
    chart = drawing(facts.line, "traffic of the last seconds")
    return " ".join(filter(None, [escape(facts.speed), chart]))
