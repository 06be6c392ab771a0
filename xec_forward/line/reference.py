"""The reference page of the options, made from `options`: `python -m xec_forward.line.reference > docs/options.md`."""

from __future__ import annotations

from dataclasses import fields

from ..options import ClusterTarget, CommandTarget, Service, SshTarget, TunnelOptions
from .defaults import flags_with_default
from .flags import CLUSTER_FLAGS, FLAGS, Flag, Section

__all__ = ["page"]

_HEAD = """\
# Options

*Made from the options themselves by `python -m xec_forward.line.reference > docs/options.md`; a test holds it up to
date.* What TARGET, SPEC, RESOURCE, PORT and SOURCE are, [surface.md](surface.md) says.

An option has one name: `--auto-port` on the line, `auto_port=` in Python, `auto_port = true` in the project file. Only
`--as` is `name` elsewhere. S is a number of seconds, D a duration such as `90`, `90s`, `10m` or `1h30m`.

Almost every one can have a default of your own, which holds where neither the line nor its profile says otherwise. In
`ipython_config.py` (`ipython locate profile` tells where that is; `ipython_kernel_config.py` is for kernels alone):

    c.InteractiveShellApp.extensions = ["xec_forward"]
    c.ForwardMagics.hold = 60
    c.ForwardMagics.host_key = "strict"
    c.ForwardMagics.private_key = ["~/.ssh/id_work"]

In a notebook `%config ForwardMagics.hold = 60` does it for the kernel, `%config ForwardMagics` lists them all, and None
takes a default back. A target made in Python is used as it is, without defaults of its own.
"""

_GROUPS: tuple[tuple[str, Section], ...] = (
    ("What the service is, and how a line opens", Service),
    ("How the tunnel behaves", TunnelOptions),
    ("TARGET: an SSH host", SshTarget),
    ("A command in the place of TARGET", CommandTarget),
    ("The cluster of RESOURCE", ClusterTarget),
)


def page() -> str:
    """The page, in Markdown."""
    return "\n".join([_HEAD, *(_group(title, section) for title, section in _GROUPS)])


def _group(title: str, section: Section) -> str:
    flags = {flag.field: flag for flag in [*FLAGS.values(), *CLUSTER_FLAGS.values()] if flag.section is section}
    rows = [_row(flags[each.name], each.default) for each in fields(section) if each.name in flags]
    return "\n".join([f"## {title}", "", "| option | in Python | default | |", "|---|---|---|---|", *rows, ""])


def _row(flag: Flag, default: object) -> str:
    spelled = ", ".join(f"`{spelling}`" for spelling in flag.spellings)
    value = f" {flag.metavar}" if flag.metavar else ""
    shown = "" if default in ("", None, (), False) else f"{default:g}" if isinstance(default, float) else str(default)
    kinds = [magic for magic, known in (("%forward", FLAGS), ("%k8s_forward", CLUSTER_FLAGS)) if flag.long in known]
    notes = [flag.help]
    if len(kinds) == 1 and flag.section in (Service, TunnelOptions):
        notes.append(f"`{kinds[0]}` alone")
    if flag.field not in flags_with_default():
        notes.append("no default of one's own")
    text = "; ".join(notes).replace("|", "\\|")
    return f"| {spelled}{value.replace('|', chr(92) + '|')} | `{flag.field}` | {shown} | {text} |"


if __name__ == "__main__":
    print(page(), end="")
