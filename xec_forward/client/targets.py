"""Targets made in Python: `ssh()`, and the forwards of a target."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable
from dataclasses import fields, replace
from os import PathLike, fspath
from typing import Any

from ..dsn import parse_template, template_for
from ..errors import SpecError
from ..options import SshTarget, TunnelOptions
from ..source import Source
from ..spec import Endpoint, Forward, Kind, default_name, parse_target, refuse_password
from .session import Session, current
from .tunnel import Opening, Tunnel
from .watcher import Watcher

Secret = str | Source | Callable[[], str] | None


class Ssh:
    """An SSH host, not yet dialled. `forward` opens a tunnel through it; tunnels of equal targets share a link."""

    def __init__(self, target: SshTarget) -> None:
        self.target = target

    def __repr__(self) -> str:
        user = f"{self.target.username}@" if self.target.username else ""
        port = f":{self.target.port}" if self.target.port else ""
        return f"<Ssh {user}{self.target.host}{port}>"

    def forward(
        self,
        *,
        local_port: int | None = None,
        remote_host: str = "",
        remote_port: int | None = None,
        type: str = "local",
        local_host: str = "",
        name: str = "",
        dsn: str = "",
        password: Secret = None,
        **options: Any,
    ) -> Tunnel:
        """Open a tunnel; returns when it is ready.

        Args:
            local_port: where to listen; 0 for any free port; left out: the far port if it can be bound, else any.
            remote_host: resolved at the far side; left out: the target itself.
            remote_port: the far port.
            type: local (others are to come).
            name: its name in the registry; left out: made from the far host.
            dsn: the template of its connection string, without a password.
            password: the service's: a SOURCE, a callable, or the secret itself.
            options: fields of TunnelOptions, such as `hold=60`. Times are seconds.

        Raises:
            ForwardError: see `errors`; nothing is left half-open. KeyboardInterrupt likewise.

        >>> pg = xf.ssh("bastion").forward(remote_host="pg.vpc", remote_port=5432)  # doctest: +SKIP
        """
        session, tunnel = self._prepare(
            type, local_port, remote_host, remote_port, local_host, name, dsn, password, options
        )
        session.open(tunnel)
        return tunnel

    def aforward(
        self,
        *,
        local_port: int | None = None,
        remote_host: str = "",
        remote_port: int | None = None,
        type: str = "local",
        local_host: str = "",
        name: str = "",
        dsn: str = "",
        password: Secret = None,
        **options: Any,
    ) -> Opening:
        """`forward` for coroutines: await it, or use it as `async with`."""

        async def open() -> Tunnel:
            session, tunnel = self._prepare(
                type, local_port, remote_host, remote_port, local_host, name, dsn, password, options
            )
            await session.aopen(tunnel)
            return tunnel

        return Opening(open)

    def _prepare(
        self,
        type: str,
        local_port: int | None,
        remote_host: str,
        remote_port: int | None,
        local_host: str,
        name: str,
        dsn: str,
        password: Secret,
        options: dict[str, Any],
    ) -> tuple[Session, Tunnel]:
        wanted = _forward(type, local_port, remote_host, remote_port, local_host, name, dsn)
        _check_names(TunnelOptions, options, "forward()")
        return prepare_tunnel(self.target, wanted, TunnelOptions(**options), dsn, password)


def ssh(
    host: str,
    *,
    username: str = "",
    port: int | None = None,
    private_key: str | PathLike[str] | Iterable[str | PathLike[str]] = (),
    passphrase: Secret = None,
    ssh_password: Secret = None,
    **options: Any,
) -> Ssh:
    """An SSH host to tunnel through: an ssh_config alias, `user@host:port`, or an `ssh://` URL.

    Args:
        host: the target; what it says of user and port gives way to the arguments.
        username: the login name.
        port: the SSH port.
        private_key: one identity file, or several.
        passphrase: of the key: a SOURCE such as `env:SSH_KEY_PASSPHRASE`, a callable, or the secret itself.
        ssh_password: of the login, likewise.
        options: further fields of SshTarget: `ssh_config`, `host_key`, `server_alive_interval` and so on.

    Raises:
        SpecError: the target or an option is malformed. Nothing is dialled yet.
    """
    _check_names(SshTarget, options, "ssh()")
    keys = (private_key,) if isinstance(private_key, str | PathLike) else tuple(private_key)
    sources = current().sources
    given: dict[str, Any] = {
        "username": username,
        "port": port,
        "private_key": tuple(fspath(key) for key in keys),
        "passphrase": sources.add(passphrase),
        "ssh_password": sources.add(ssh_password),
        **options,
    }
    return Ssh(
        replace(parse_target(host), **{key: value for key, value in given.items() if value not in ("", None, ())})
    )


def open_tunnel(
    target: SshTarget,
    forward: Forward,
    options: TunnelOptions,
    *,
    name: str = "",
    dsn: str = "",
    password: Secret = None,
    watcher: Watcher | None = None,
) -> Tunnel:
    """Open a tunnel that is described in full; what `Ssh.forward` and the magics share."""
    session, tunnel = prepare_tunnel(target, forward, options, dsn, password, name)
    session.open(tunnel, watcher)
    return tunnel


def prepare_tunnel(
    target: SshTarget, forward: Forward, options: TunnelOptions, dsn: str, password: Secret, name: str = ""
) -> tuple[Session, Tunnel]:
    """A handle that is yet to be opened, and the session to open it with. Raises SpecError, ConfigError."""
    session = current()
    template = template_for(forward, dsn)
    scheme = parse_template(template).base if template else ""
    reference = session.sources.add(password)
    name = name or forward.name or default_name(forward, target.host)
    tunnel = session.prepare(target, forward, options, name, scheme)
    tunnel.template, tunnel.password = dsn, reference
    return session, tunnel


def _forward(
    type: str,
    local_port: int | None,
    remote_host: str,
    remote_port: int | None,
    local_host: str,
    name: str,
    dsn: str,
) -> Forward:
    try:
        kind = Kind(type)
    except ValueError:
        raise SpecError(f"type is {type!r}, not local, remote or dynamic") from None
    if dsn:
        refuse_password(dsn, fix="give password= a SOURCE, a callable or the secret itself")
    for what, port in (("local_port", local_port), ("remote_port", remote_port)):
        if port is not None and not 0 <= port <= 65535:
            raise SpecError(f"{what} is {port}, not a port from 0 to 65535")
    near, far = Endpoint(local_host, local_port), Endpoint(remote_host, remote_port)
    if kind is Kind.LOCAL and not remote_port:
        raise SpecError("remote_port is missing", hint="forward(remote_host=..., remote_port=5432)")
    if kind is Kind.LOCAL:
        return Forward(kind, near, far, name)
    return Forward(kind, near, None, name) if kind is Kind.DYNAMIC else Forward(kind, far, near, name)


def _check_names(kind: type[Any], options: dict[str, Any], where: str) -> None:
    known = [field.name for field in fields(kind)]
    for name in options:
        if name not in known:
            near = difflib.get_close_matches(name, known, 1)
            raise SpecError(f"{where} has no option {name}", hint=f"Did you mean {near[0]}?" if near else "")
