"""What moved lately, as a small drawing: block characters for text, SVG for HTML. Ground floor, no I/O."""

from __future__ import annotations

from collections.abc import Sequence

_BLOCKS = "▁▂▃▄▅▆▇█"
# Characters in a line of text; points are put together until they fit.
_COLUMNS = 15
# Of the SVG, in the units of its own drawing.
_WIDTH, _HEIGHT = 90, 16


def sparkline(line: Sequence[float]) -> str:
    """The points as a line of block characters, "" where nothing moved.

    The highest point is a full block, and whatever is not 0 stands above the ground.

    >>> sparkline((0, 1, 4, 8, 0))
    '▁▂▅█▁'
    """
    if not any(line):
        return ""
    each = -(-len(line) // _COLUMNS)
    points = [sum(line[start : start + each]) for start in range(0, len(line), each)]
    most, top = max(points), len(_BLOCKS) - 1
    return "".join(_BLOCKS[max(1, round(point / most * top))] if point else _BLOCKS[0] for point in points)


def drawing(line: Sequence[float], label: str) -> str:
    """The points as an inline SVG, in the colour of the text around it; "" where nothing moved.

    Args:
        label: what it shows, for who cannot see it; without characters that HTML gives a meaning to.
    """
    if not any(line):
        return ""
    most, step = max(line), _WIDTH / max(1, len(line) - 1)
    points = " ".join(f"{i * step:.1f},{_HEIGHT * (1 - value / most):.1f}" for i, value in enumerate(line))
    return (
        f'<svg role="img" aria-label="{label}" viewBox="0 -1 {_WIDTH} {_HEIGHT + 2}" '
        'preserveAspectRatio="none" style="width:6em;height:1em;vertical-align:-.15em">'
        f'<polyline points="{points}" fill="none" stroke="currentColor" stroke-width="1.5" '
        'stroke-linejoin="round" vector-effect="non-scaling-stroke"/></svg>'
    )
