"""Connection strings: from a template and a tunnel to what a library takes. Ground floor.

connection_string  the string that is real to libraries and masked to readers, and how it is made
urls               URLs and key=value strings, taken apart and put together
pgpass             PostgreSQL's password file
"""

from .connection_string import ConnectionString, Secret, make, parse_template, suffix, template_for
from .pgpass import password_for, password_from_pgpass
from .urls import SECRET_KEYS, Parts, taken_apart

__all__ = [
    "SECRET_KEYS",
    "ConnectionString",
    "Parts",
    "Secret",
    "make",
    "parse_template",
    "password_for",
    "password_from_pgpass",
    "suffix",
    "taken_apart",
    "template_for",
]
