"""The SSH link. `identity` says what makes two links the same, `dial` makes one; the rest is how.

    config.py            what ssh_config says about a target
    link.py              the link: its channels, its end
    connection.py        how it is dialled, over its hops
    proxy_command.py     the way through a program
    known_hosts.py       may we trust this host key?
    authentication.py    keys, agent, passphrases, passwords
    stream.py            one channel
    examine.py           the doctor's way to a host
    packets.py           the faster packet path; the one file that touches asyncssh's private attributes
    failures.py          asyncssh's errors in our words

asyncssh is imported here and nowhere else, and never on the kernel's side.
"""

from .config import identity, look
from .connection import dial
from .examine import examined
from .link import SshLink

__all__ = ["SshLink", "dial", "examined", "identity", "look"]
