"""A whole `%forward` line: words in, one frozen dataclass out. Ground floor, no I/O.

parser  what a line may be, and what it means
reader  one pass over its words
flags   the options, made from the dataclasses of `options`
usage   the help text, made from the same
"""

from .parser import Action, Line, parse_line, parse_list, split

__all__ = ["Action", "Line", "parse_line", "parse_list", "split"]
