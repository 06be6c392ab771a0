"""SSH hosts made in Python: `ssh()`, and the forwards of a host."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import fields, replace
from os import PathLike, fspath
from typing import Any, Unpack

from ..diagnosis import Diagnosis
from ..dsn import parse_template, template_for
from ..errors import ForwardError, SpecError
from ..model import Far
from ..options import ClusterTarget, SshTarget, Target, TunnelOptions
from ..source import Source, SourceKind
from ..spec import Forward, default_name, parse_target
from .group import ForwardGroup
from .session import Session, current
from .sources import ClusterSecret, as_source
from .tunnel import Opening, Tunnel
from .wanted import ForwardArguments, Secret, check_names, read, read_options


class Ssh:
    """An SSH host, not yet dialled. `forward` opens a tunnel through it; tunnels of equal targets share a link."""

    def __init__(self, target: SshTarget) -> None:
        self.target = target

    def __repr__(self) -> str:
        user = f"{self.target.username}@" if self.target.username else ""
        port = f":{self.target.port}" if self.target.port else ""
        return f"<Ssh {user}{self.target.host}{port}>"

    def forward(self, **arguments: Unpack[ForwardArguments]) -> Tunnel:
        """Open a tunnel; returns when it is ready.

        Args:
            arguments: see ForwardArguments.

        Raises:
            ForwardError: see `errors`; nothing is left half-open. KeyboardInterrupt likewise.

        >>> pg = xf.ssh("bastion").forward(remote_host="pg.vpc", remote_port=5432)  # doctest: +SKIP
        """
        session, tunnel = self._prepare(arguments)
        session.open(tunnel)
        return tunnel

    def aforward(self, **arguments: Unpack[ForwardArguments]) -> Opening[Tunnel]:
        """`forward` for coroutines: await it, or use it as `async with`."""

        async def open() -> Tunnel:
            session, tunnel = self._prepare(arguments)
            await session.aopen(tunnel)
            return tunnel

        return Opening(open)

    def forward_multiple(self, forwards: Sequence[ForwardArguments], *, exit_on_failure: bool = False) -> ForwardGroup:
        """Open several tunnels side by side, over one connection.

        Args:
            forwards: the arguments of each; their types may be mixed.
            exit_on_failure: when one fails, close the others and raise its error. Else a forward that fails is
                marked failed and stays in the group, unless all fail.

        Raises:
            ForwardError: the first, where all failed, or one did with `exit_on_failure`.
        """
        session, tunnels = self._prepare_all(forwards)
        return together(session, tunnels, session.open_all(tunnels), exit_on_failure=exit_on_failure)

    async def aforward_multiple(
        self, forwards: Sequence[ForwardArguments], *, exit_on_failure: bool = False
    ) -> ForwardGroup:
        """`forward_multiple` for coroutines."""
        session, tunnels = self._prepare_all(forwards)
        errors = await session.aopen_all(tunnels)
        return await asyncio.to_thread(together, session, tunnels, errors, exit_on_failure=exit_on_failure)

    def doctor(self, **arguments: Unpack[ForwardArguments]) -> Diagnosis:
        """Examine each hop of the way, and the far end that `forward` with the same arguments would lead to.

        Nothing is opened, bound or recorded, and nobody is asked. It ends within `timeout` seconds (30).

        Args:
            arguments: see ForwardArguments; without any of a far end, the way to the host alone.

        Raises:
            SpecError: an argument is no good. EngineError. What else is wrong, the diagnosis tells.

        >>> print(xf.ssh("bastion").doctor(remote_host="pg.vpc", remote_port=5432))  # doctest: +SKIP
        """
        far, timeout = _far_ends(arguments)
        return Diagnosis(current().examine(self.target, far, timeout))

    async def adoctor(self, **arguments: Unpack[ForwardArguments]) -> Diagnosis:
        """`doctor` for coroutines."""
        far, timeout = _far_ends(arguments)
        return Diagnosis(await current().aexamine(self.target, far, timeout))

    def _prepare_all(self, forwards: Sequence[ForwardArguments]) -> tuple[Session, list[Tunnel]]:
        session, tunnels = current(), []
        try:
            for arguments in forwards:
                tunnels.append(self._prepare(arguments)[1])
        except ForwardError:
            for tunnel in tunnels:
                session.forget(tunnel)
            raise
        return session, tunnels

    def _prepare(self, arguments: Mapping[str, Any]) -> tuple[Session, Tunnel]:
        wanted = read(arguments, current().sources.add)
        return prepare_tunnel(self.target, wanted.forward, wanted.options, wanted.dsn, wanted.password)


def ssh(
    host: str,
    *,
    username: str = "",
    port: int | None = None,
    private_key: str | PathLike[str] | Iterable[str | PathLike[str]] = (),
    passphrase: Secret = None,
    ssh_password: Secret = None,
    proxy: Ssh | str | Iterable[Ssh | str] | None = None,
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
        proxy: the hosts to go through, in order: another target, `user@jump`, or several of them.
        options: further fields of SshTarget: `ssh_config`, `host_key`, `server_alive_interval` and so on.

    Raises:
        SpecError: the target or an option is malformed. Nothing is dialled yet.
    """
    check_names(options, (field.name for field in fields(SshTarget)), "ssh()")
    keys = (private_key,) if isinstance(private_key, str | PathLike) else tuple(private_key)
    sources = current().sources
    given: dict[str, Any] = {
        "username": username,
        "port": port,
        "private_key": tuple(fspath(key) for key in keys),
        "passphrase": sources.add(passphrase),
        "ssh_password": sources.add(ssh_password),
        "proxy": hops(proxy),
        **options,
    }
    wanted = {key: value for key, value in given.items() if value not in ("", None, ())}
    return Ssh(replace(parse_target(host), **read_options(SshTarget, wanted)))


def hops(proxy: Ssh | str | Iterable[Ssh | str] | None) -> tuple[SshTarget, ...]:
    """The hops in order; a hop that has hops of its own goes through them first."""
    if proxy is None:
        return ()
    found: list[SshTarget] = []
    for each in (proxy,) if isinstance(proxy, str | Ssh) else proxy:
        for target in [each.target] if isinstance(each, Ssh) else [parse_target(word) for word in each.split(",")]:
            found += [*target.proxy, replace(target, proxy=())]
    return tuple(found)


def prepare_tunnel(
    target: Target, forward: Forward, options: TunnelOptions, dsn: str, password: Secret, name: str = ""
) -> tuple[Session, Tunnel]:
    """A handle that is yet to be opened, and the session to open it with. Raises SpecError, LimitError."""
    session = current()
    template = template_for(forward, dsn)
    scheme = parse_template(template).base if template else ""
    secret = _with_cluster(session, password, target)
    reference = session.sources.add(secret) if not isinstance(secret, ClusterSecret) else ""
    name = name or forward.name or default_name(forward, target.host)
    tunnel = session.prepare(target, forward, options, name, scheme)
    if isinstance(secret, ClusterSecret):
        reference = session.sources.add(replace(secret, tunnel=tunnel.request.tunnel))
    tunnel.template, tunnel.password = dsn, reference
    return session, tunnel


def _with_cluster(session: Session, password: Secret, target: Target) -> Secret:
    """The password, where it is a Kubernetes Secret as something that reads it. Raises SpecError."""
    source = as_source(password) if isinstance(password, str) else password
    if not isinstance(source, Source) or source.kind is not SourceKind.SECRET:
        return password
    if isinstance(target, ClusterTarget):
        return ClusterSecret(session.secret, target, *source.secret_entry)
    hint = "Give another SOURCE: env:NAME, keyring:SERVICE/USER, cmd:COMMAND or file:PATH"
    raise SpecError(f"the password's secret: is read from a cluster, and {target.host} is none", hint=hint)


def _far_ends(arguments: Mapping[str, Any]) -> tuple[list[Far], float]:
    """What `doctor` is to examine behind the host, and in how many seconds."""
    if not set(arguments) - {"timeout"}:
        return [], read({**arguments, "type": "dynamic"}, current().sources.add).options.timeout
    wanted = read(arguments, current().sources.add)
    template = template_for(wanted.forward, wanted.dsn)
    return [Far(wanted.forward, parse_template(template).base if template else "")], wanted.options.timeout


def together(
    session: Session, tunnels: list[Tunnel], errors: list[ForwardError | None], *, exit_on_failure: bool
) -> ForwardGroup:
    """The group of tunnels that were opened side by side; raises the first error where there is to be none."""
    failed = [error for error in errors if error is not None]
    if failed and (exit_on_failure or len(failed) == len(tunnels)):
        session.close(tunnels)
        raise failed[0]
    return ForwardGroup(tunnels)
