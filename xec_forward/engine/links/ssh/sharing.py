"""ControlMaster: riding a master that lives at the control path, and serving one of ours there.

auto  (unless told) ride a live master, else dial
yes   the same, and where none lives our connection becomes the master
no    neither: a connection of its own
"""

from __future__ import annotations

import os

from ....errors import ConfigError, PortInUseError
from ....options import SshTarget
from ..base import Link
from .config import Resolved
from .control_path import Names, candidates
from .link import SshLink
from .master import Master
from .rider import ride


def paths(target: SshTarget, resolved: Resolved, jumps: tuple[SshTarget, ...]) -> tuple[str, ...]:
    """Where a master of this target may be. Raises ConfigError: `control_master yes` names no place."""
    if target.control_master == "no":
        return ()
    names = Names(
        original=target.host,
        host=resolved.hostname,
        port=resolved.port,
        remote_user=resolved.username,
        jump=jumps[-1].host if jumps else "",
        key_alias=resolved.host_key_alias,
    ).here()
    found = candidates(resolved.control_path, names, os.environ) if resolved.control_path else ()
    if target.control_master == "yes" and not found:
        raise ConfigError(
            "--control-master yes needs a place for its socket",
            hop=target.host,
            hint="Give --control-path ~/.ssh/cm-%C, or set ControlPath in ssh_config",
        )
    return found


async def ride_any(places: tuple[str, ...], target: SshTarget, resolved: Resolved) -> Link | None:
    """A link over the first live master, None where there is none. Raises ConfigError for an unsafe socket."""
    for path in places:
        link = await ride(
            path,
            target.host,
            (target.host,),
            alive_interval=resolved.alive_interval,
            alive_count_max=resolved.alive_count_max,
        )
        if link is not None:
            link.remark = f"over the ssh master of process {link.pid}"
            return link
    return None


async def serve(link: SshLink, path: str) -> None:
    """Have `link` be the master at `path`, until it is lost. Somebody else's master there is left alone.

    Raises:
        BindPermissionError, ConfigError: the socket cannot be made there.
    """
    master = Master(link, path, link.host)
    try:
        await master.start()
    except PortInUseError:
        link.remark = f"another master has come to {path} meanwhile; this connection is its own"
        return
    link.master = master
    link.remark = f"serves as the ssh master at {path}"
