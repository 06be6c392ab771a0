"""A whole line of `%forward` or `%k8s_forward`: words in, one frozen dataclass out. Ground floor, no I/O.

parser   what a line may be, and what it means
cluster  RESOURCE PORT ... and their cluster
profile  a table of the project file, which `@NAME` stands for
dialect  what tells the lines of the two magics apart
reader   one pass over the words
flags    the options, made from the dataclasses of `options`
usage    the help text, made from the same; reference: docs/options.md, likewise
defaults those that were configured, under what a line says
outline  whether a cell's first line opens tunnels for code
"""

from .dialect import KUBERNETES, SSH, Dialect
from .parser import Action, Line, parse_line, parse_list, split
from .profile import BadKey, Chosen, Profile, read_profile

__all__ = [
    "KUBERNETES",
    "SSH",
    "Action",
    "BadKey",
    "Chosen",
    "Dialect",
    "Line",
    "Profile",
    "parse_line",
    "parse_list",
    "read_profile",
    "split",
]
