"""An SSH server that only forwards: `python -m xec_forward.demo.bastion`.

It stands for the bastion of a company: the account may open direct-tcpip channels (RFC 4254 section 7.2) to the
names it is allowed, and nothing else. A shell, a command, sftp, a remote forward: all refused. The names exist
only in its own directory; the services behind them listen on unix sockets.

In its folder (0700) it writes what a client needs, in the shape of a user's ~/.ssh: `id_ed25519`,
`known_hosts`, `ssh_config` with `Host bastion`. The host key is never written down. The folder is removed when
the server ends, which it does when its stdin ends (see `lifeline`).

Configuration: `folder`; `user`; `routes`, a unix socket for each allowed `name:port`; `forbidden`, names that it
knows but this account may not reach.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import asyncssh
from asyncssh.forward import SSHForwarder

from .lifeline import remove_folder, report, serve

# RFC 4254 section 5.1: the reason codes of SSH_MSG_CHANNEL_OPEN_FAILURE
PROHIBITED = asyncssh.OPEN_ADMINISTRATIVELY_PROHIBITED
CONNECT_FAILED = asyncssh.OPEN_CONNECT_FAILED


class ForwardOnly(asyncssh.SSHServer):
    """One login: public key, then direct-tcpip to the allowed names.

    Args:
        user: the only account.
        routes: where `name:port` leads: the path of a unix socket.
        forbidden: names in the directory that this account may not reach.
    """

    def __init__(self, user: str, routes: Mapping[str, str], forbidden: frozenset[str]) -> None:
        self._user = user
        self._routes = routes
        self._known = forbidden | {name.rpartition(":")[0] for name in routes}
        self._connection: asyncssh.SSHServerConnection | None = None

    def connection_made(self, conn: asyncssh.SSHServerConnection) -> None:
        self._connection = conn

    def begin_auth(self, username: str) -> bool:
        return True

    def validate_public_key(self, username: str, key: asyncssh.SSHKey) -> bool:
        # authorized_client_keys has been consulted by now: a key that comes here is not in it.
        return False

    async def connection_requested(  # type: ignore[override]  # asyncssh's own forwarder is no SSHTCPSession to mypy
        self, dest_host: str, dest_port: int, orig_host: str, orig_port: int
    ) -> SSHForwarder:
        assert self._connection is not None
        socket_path = self._routes.get(f"{dest_host}:{dest_port}")
        if socket_path is not None:
            return await self._connection.forward_unix_connection(socket_path)
        if dest_host in self._known or not _is_name(dest_host):
            raise asyncssh.ChannelOpenError(PROHIBITED, f"{self._user} may not connect to {dest_host}:{dest_port}")
        raise asyncssh.ChannelOpenError(CONNECT_FAILED, f"{dest_host}: Name or service not known")

    def unix_connection_requested(self, dest_path: str) -> asyncssh.SSHUNIXSession[bytes]:
        raise asyncssh.ChannelOpenError(PROHIBITED, f"{self._user} may not connect to sockets")


def _is_name(host: str) -> bool:
    """A name to look up, as opposed to the bastion itself or an address, which the account may never reach."""
    return host not in ("", "localhost") and ":" not in host and not host.replace(".", "").isdigit()


def write_client_files(
    folder: Path, user: str, port: int, host_key: asyncssh.SSHKey, user_key: asyncssh.SSHKey
) -> None:
    """Write key, known_hosts and ssh_config for a client, in a folder only the owner can read."""
    private = folder / "id_ed25519"
    descriptor = os.open(private, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(user_key.export_private_key())
    (folder / "id_ed25519.pub").write_bytes(user_key.export_public_key())
    public = host_key.export_public_key().decode().strip()
    (folder / "known_hosts").write_text(f"[127.0.0.1]:{port} {public}\n")
    (folder / "ssh_config").write_text(
        f"""\
Host bastion
    HostName 127.0.0.1
    Port {port}
    User {user}
    IdentityFile {_quoted(private)}
    IdentitiesOnly yes
    IdentityAgent none
    UserKnownHostsFile {_quoted(folder / "known_hosts")}
    GlobalKnownHostsFile none
    StrictHostKeyChecking yes
"""
    )


def _quoted(path: Path) -> str:
    text = str(path)
    return f'"{text}"' if " " in text else text


async def _serve(config: dict[str, Any], folder: Path) -> None:
    user = str(config["user"])
    routes: dict[str, str] = config["routes"]
    forbidden = frozenset(config.get("forbidden", ()))
    host_key = asyncssh.generate_private_key("ssh-ed25519")
    user_key = asyncssh.generate_private_key("ssh-ed25519", comment=f"{user} (xec_forward demo)")
    allowed = asyncssh.import_authorized_keys(f"restrict,port-forwarding {user_key.export_public_key().decode()}")

    ended = asyncio.Event()
    loop = asyncio.get_running_loop()
    loop.add_reader(0, lambda: None if os.read(0, 4096) else ended.set())
    loop.add_signal_handler(signal.SIGTERM, ended.set)

    server = await asyncssh.listen(
        "127.0.0.1",
        0,
        server_factory=lambda: ForwardOnly(user, routes, forbidden),
        server_host_keys=[host_key],
        authorized_client_keys=allowed,
        password_auth=False,
        kbdint_auth=False,
        allow_scp=False,
        agent_forwarding=False,
        x11_forwarding=False,
        allow_pty=False,
        login_timeout=15,
        keepalive_interval=15,
    )
    try:
        port = server.get_port()
        write_client_files(folder, user, port, host_key, user_key)
        report({"port": port})
        await ended.wait()
    finally:
        loop.remove_reader(0)
        server.close()
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(server.wait_closed(), 1.0)


def main(config: dict[str, Any]) -> None:
    """Serve until stdin ends. See the module's docstring for `config`."""
    os.umask(0o077)
    folder = Path(config["folder"])
    folder.mkdir(mode=0o700)
    try:
        asyncio.run(_serve(config, folder))
    finally:
        remove_folder(folder)


if __name__ == "__main__":
    serve(main)
