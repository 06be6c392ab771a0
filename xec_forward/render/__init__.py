"""What is shown of tunnels, as plain text and as HTML: one way to say it for every face. Ground floor, no I/O; no
secret can be in a Snapshot, which is all that there is to show.

    words       numbers, times and sizes in words
    facts       one Snapshot in words: what card, table, panel and sidebar have in common
    sparkline   what moved lately, as block characters and as SVG
    view        something that is shown, in both forms; the parts of HTML
    card        one tunnel
    table       all of them
    progress    openings that take their time

A state is always a word, in HTML with a sign before it, never a colour alone. HTML takes the colours around it, so that
it reads in light and dark; every text in it is escaped, and where a notebook that is not trusted loses its styles the
words still stand line by line.
"""

from .card import Card, Cards
from .facts import SIGNS, Facts, traffic, way
from .progress import Progress
from .sparkline import drawing, sparkline
from .table import Table
from .view import Text, View, block
from .words import clock, duration, opening, short_seconds, size, speed

__all__ = [
    "SIGNS",
    "Card",
    "Cards",
    "Facts",
    "Progress",
    "Table",
    "Text",
    "View",
    "block",
    "clock",
    "drawing",
    "duration",
    "opening",
    "short_seconds",
    "size",
    "sparkline",
    "speed",
    "traffic",
    "way",
]
