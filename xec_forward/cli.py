"""The command line: `xec-forward`, the same as `python -m xec_forward`.

xec-forward open ...            what %forward takes, open until Ctrl-C
xec-forward k8s-open ...        what %k8s_forward takes, likewise
xec-forward doctor ...          examines each stage of what `open` or `k8s-open` would open
xec-forward demo                the quickstart notebook against the demo's own services
xec-forward demo --lab          the same notebook in JupyterLab
xec-forward demo --services     the services alone, for your own IPython
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; the exit status."""
    arguments = sys.argv[1:] if arguments is None else list(arguments)
    if arguments[:1] in (["open"], ["k8s-open"]):
        # Their words are those of a magic's line, which argparse does not read (see `line`).
        from .client.foreground import run_open
        from .line import KUBERNETES, SSH

        return run_open(arguments[1:], SSH if arguments[0] == "open" else KUBERNETES)
    if arguments[:1] == ["doctor"]:
        from .client.doctor import run_doctor

        return run_doctor(arguments[1:])
    parser = argparse.ArgumentParser(
        prog="xec-forward", description="Private services for notebooks.", allow_abbrev=False
    )
    parser.add_argument("--version", action="version", version=f"xec_forward {_version()}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    commands.add_parser("open", help="open tunnels until Ctrl-C; takes what %%forward takes", add_help=False)
    commands.add_parser(
        "k8s-open", help="open Kubernetes forwards until Ctrl-C; takes what %%k8s_forward takes", add_help=False
    )
    commands.add_parser("doctor", help="examine each stage of what `open` or `k8s-open` would open", add_help=False)
    demo = commands.add_parser(
        "demo",
        help="run the quickstart notebook against a bastion and a database of its own",
        description="Run the quickstart notebook in a real kernel, against an embedded bastion and PostgreSQL.",
        allow_abbrev=False,
    )
    form = demo.add_mutually_exclusive_group()
    form.add_argument("--lab", action="store_true", help="open the notebook in JupyterLab in the place of running it")
    form.add_argument("--services", action="store_true", help="start the services alone, and say how to use them")
    demo.add_argument("--no-browser", action="store_true", help="with --lab: only print the address")
    demo.add_argument("--notebook", type=Path, metavar="FILE", help="another notebook in the place of the quickstart")
    return _demo(parser.parse_args(arguments))


def _version() -> str:
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version("xec_forward")
    except PackageNotFoundError:
        return "(run from a folder, not installed)"


def _demo(options: argparse.Namespace) -> int:
    if sys.platform == "win32":
        print("xec-forward demo: its database needs a POSIX system; the demo runs in WSL")
        return 1
    if options.notebook is not None and not options.notebook.is_file():
        print(f"xec-forward demo: {options.notebook}: no such file")
        return 1
    try:
        if options.services:
            from .demo.lab import run_services

            return run_services()
        if options.lab:
            from .demo.lab import run_lab

            return run_lab(options.notebook, browser=not options.no_browser)
        from .demo.run import run_demo

        return run_demo(options.notebook)
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] == "xec_forward":
            raise
        print(f"xec-forward demo: {error.name} is not installed. Run: pip install 'xec_forward[demo]'")
        return 1


if __name__ == "__main__":
    raise SystemExit(main())
