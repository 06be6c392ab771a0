"""Whether a cell is code or a list is decided by the words of its first line."""

from __future__ import annotations

import pytest

from xec_forward.jupyter.cell_scope import rewrite
from xec_forward.line import KUBERNETES, SSH
from xec_forward.line.outline import says_what_to_open


@pytest.mark.parametrize(
    ("line", "code"),
    [
        ("bastion pg.vpc:5432", True),
        ("bastion -D 0", True),
        ("-NTL 5432:pg.vpc:5432 bastion", True),
        ("bastion -i key --hold {seconds} $far:$port # why", True),
        ("--command 'connect %p' 5432", True),
        ("@sales", True),
        ("{host if here else there} $spec", True),
        ("bastion", False),
        ("bastion -i key --as both --hold 5", False),
        ("{hosts['a b']}", False),
        ("--command 'connect %p'", False),
        ("--close pg", False),
        ("bastion 5432 --help", False),
        ("bastion 5432 --nonsense", False),
        ("bastion 'open", False),
        ("bastion {open 5432", True),
    ],
)
def test_line_of_forward(line: str, code: bool) -> None:
    assert says_what_to_open(line, SSH) is code


@pytest.mark.parametrize(
    ("line", "code"),
    [
        ("svc/pg 5432 -n prod", True),
        ("-l app=api 80", True),
        ("-n prod", False),
        ("svc/pg", False),
        ("$cluster", False),
    ],
)
def test_line_of_k8s_forward(line: str, code: bool) -> None:
    assert says_what_to_open(line, KUBERNETES) is code


def test_rest_of_the_cell_is_untouched_and_every_line_keeps_its_number() -> None:
    lines = ["%%forward b 1\n", "\n", "%%k8s_forward p 2\n", "await x\n", "%%not a cell magic here\n"]
    first, second = (
        f"get_ipython().run_cell_magic({name!r}, {line!r}, ...)\n"
        for name, line in (("forward", "b 1"), ("k8s_forward", "p 2"))
    )
    assert rewrite(lines) == [first, "\n", second, *lines[3:]]
    assert rewrite(["%%forward b 1\n", "%%bash\n", "ls\n"]) == [
        first,
        "get_ipython().run_cell_magic('bash', '', 'ls\\n')\n",
    ]
    for other in (["%%forward b\n", "1\n"], ["%%forward b 1\n", "# no code\n"], ["%%time\n", "x\n"], ["x\n"], []):
        assert rewrite(other) is other
