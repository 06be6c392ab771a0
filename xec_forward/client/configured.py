"""A target as this process means it: its agent, its folder and its variables are not the engine's."""

from __future__ import annotations

import os
from dataclasses import replace

from ..options import ClusterTarget, SshTarget
from ..paths import SSH_CONFIG_VARIABLE

# kubectl's: one file, or several with the system's separator between them.
KUBECONFIG_VARIABLE = "KUBECONFIG"


def configured_host(target: SshTarget) -> SshTarget:
    """An SSH host, and those before it, with what the engine could not know: paths, variables, the agent."""
    named = target.ssh_config or os.environ.get(SSH_CONFIG_VARIABLE, "")
    return replace(
        target,
        agent=os.environ.get("SSH_AUTH_SOCK", ""),
        private_key=tuple(map(_absolute, target.private_key)),
        ssh_config=named if named in ("", "none") else _absolute(named),
        control_path=os.path.expandvars(target.control_path),
        proxy=tuple(configured_host(replace(hop, ssh_config=hop.ssh_config or named)) for hop in target.proxy),
    )


def configured_cluster(target: ClusterTarget) -> ClusterTarget:
    """A cluster likewise: the files that $KUBECONFIG names now."""
    listed = os.environ.get(KUBECONFIG_VARIABLE, "").split(os.pathsep)
    return replace(
        target,
        kubeconfig=_absolute(target.kubeconfig) if target.kubeconfig else "",
        files=tuple(_absolute(file) for file in listed if file),
        proxy=tuple(map(configured_host, target.proxy)),
    )


def _absolute(path: str) -> str:
    """A path with `~` and `$VAR` expanded, from this process's working folder."""
    return os.path.abspath(os.path.expanduser(os.path.expandvars(path)))
