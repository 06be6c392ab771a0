"""An SSH link as a test wants it: acquired from a pool of its own, over a real sshd's configuration."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

from tests.peers.channels import Conversation
from xec_forward.engine.links import ssh
from xec_forward.engine.links.base import Opening
from xec_forward.engine.links.pool import Lease, Pool
from xec_forward.options import SshTarget


def target(config: Path, host: str = "bastion", **options: Any) -> SshTarget:
    """A target of that ssh_config."""
    return SshTarget(host, ssh_config=str(config), **options)


async def acquire(pool: Pool, wanted: SshTarget, opening: Opening | None = None) -> Lease:
    """A lease as the engine takes it, within a deadline."""
    async with asyncio.timeout(30):
        return await pool.acquire(ssh.identity(wanted), partial(ssh.dial, wanted, pool=pool), opening or Conversation())


@asynccontextmanager
async def linked(wanted: SshTarget, opening: Opening | None = None) -> AsyncIterator[ssh.SshLink]:
    """The link itself, closed at the end."""
    pool = Pool()
    try:
        lease = await acquire(pool, wanted, opening)
        assert isinstance(lease.link, ssh.SshLink)
        yield lease.link
    finally:
        await pool.close()


async def eventually(condition: Callable[[], bool], seconds: float = 10.0) -> None:
    """Wait until it holds."""
    async with asyncio.timeout(seconds):
        while not condition():
            await asyncio.sleep(0.005)
