"""SPEC and TARGET words: what the user asked for, as frozen dataclasses. Ground floor, no I/O.

grammar  the forms of docs/surface.md, and their dataclasses
parts    what the forms are made of: hosts, ports, colons, URLs
resource the RESOURCE of a Kubernetes port-forward
ports    its PORT words
hints    the nearest form that would have been right
names    the name a forward gets in the notebook
words    words in messages: quoted, shortened, without what could be a secret
"""

from .grammar import (
    Endpoint,
    Forward,
    Kind,
    check_name,
    default_name,
    parse_forward,
    parse_target,
    refuse_password,
)
from .names import is_address, is_loopback
from .ports import check_port_name, parse_port
from .resource import Resource, ResourceKind, parse_resource, parse_selector

__all__ = [
    "Endpoint",
    "Forward",
    "Kind",
    "Resource",
    "ResourceKind",
    "check_name",
    "check_port_name",
    "default_name",
    "is_address",
    "is_loopback",
    "parse_forward",
    "parse_port",
    "parse_resource",
    "parse_selector",
    "parse_target",
    "refuse_password",
]
