"""The tree of errors: what its docstring draws, what crosses a pickle and the pipe, what a notebook shows."""

from __future__ import annotations

import copy
import errno
import inspect
import pickle
import re

import pytest

from xec_forward import errors
from xec_forward.errors import ForwardError, PortInUseError, SpecError, from_code
from xec_forward.model import Fault

CLASSES = [
    kind
    for kind in vars(errors).values()
    if isinstance(kind, type) and issubclass(kind, ForwardError) and kind.__module__ == errors.__name__
]
_DRAWN = re.compile(r"^ {4}(?P<bars>[│ ]*(?:[├└]── )?)(?P<name>\w+Error)\s+(?P<rest>.*)$", re.MULTILINE)
_TWINS = {
    "PortInUseError": (OSError, errno.EADDRINUSE),
    "BindPermissionError": (PermissionError, errno.EPERM),
    "RefusedError": (ConnectionRefusedError, errno.ECONNREFUSED),
    "UnreachableError": (OSError, errno.EHOSTUNREACH),
    "DeadlineError": (TimeoutError, errno.ETIMEDOUT),
    "NameNotFoundError": (OSError, errno.ENOENT),
    "LostError": (ConnectionResetError, errno.ECONNRESET),
}


def drawn() -> dict[str, tuple[str, str]]:
    """Name -> (parent, rest of the line), as the docstring draws them."""
    found: dict[str, tuple[str, str]] = {}
    parents: list[str] = []
    for row in _DRAWN.finditer(errors.__doc__ or ""):
        depth = len(row["bars"]) // 4
        del parents[depth:]
        found[row["name"]] = (parents[-1] if parents else "", row["rest"])
        parents.append(row["name"])
    return found


def test_all_names_every_class_and_nothing_else() -> None:
    assert sorted(errors.__all__) == sorted([*(kind.__name__ for kind in CLASSES), "from_code"])
    assert list(errors.__all__) == sorted(errors.__all__)


def test_the_tree_in_the_docstring_is_the_tree_of_classes() -> None:
    tree = drawn()
    assert sorted(tree) == sorted(kind.__name__ for kind in CLASSES)
    for kind in CLASSES:
        parent, rest = tree[kind.__name__]
        ours = [base.__name__ for base in kind.__bases__ if base in CLASSES]
        assert ours == ([parent] if parent else [])
        if written := re.match(r"(E[A-Z]+)\b", rest):
            assert kind.code == written[1]
        if also := re.search(r"\(also (\w+)\)", rest):
            assert also[1] in [base.__name__ for base in kind.__bases__]


def test_every_class_says_what_it_means() -> None:
    assert all(inspect.getdoc(kind) for kind in CLASSES)
    codes = {kind.code for kind in CLASSES}
    surface = "EADDRINUSE ECONNREFUSED EPERM EHOSTUNREACH ETIMEDOUT ENOTFOUND EAUTH EHOSTKEY EPROHIBITED ELIMIT ESPEC"
    assert codes >= {*surface.split(), "ECONFIG"}


@pytest.mark.parametrize("kind", CLASSES, ids=lambda kind: kind.__name__)
def test_an_error_is_one_line_with_code_hop_and_fix(kind: type[ForwardError]) -> None:
    error = kind("it went wrong", hop="pg.vpc:5432", hint="Mend it")
    assert str(error) == f"{kind.code} pg.vpc:5432: it went wrong. Mend it"
    assert repr(error) == f"{kind.__name__}({str(error)!r})"
    assert str(kind("it went wrong")) == f"{kind.code} it went wrong"


@pytest.mark.parametrize("kind", CLASSES, ids=lambda kind: kind.__name__)
@pytest.mark.parametrize("again", [lambda error: pickle.loads(pickle.dumps(error)), copy.copy, copy.deepcopy])
def test_an_error_survives_pickling_and_copying(kind: type[ForwardError], again: object) -> None:
    error = kind("it went wrong", hop="bastion", hint="Mend it")
    assert callable(again)
    other = again(error)
    assert type(other) is kind
    assert (other.message, other.hop, other.hint, other.code) == ("it went wrong", "bastion", "Mend it", kind.code)
    assert str(other) == str(error)


@pytest.mark.parametrize("kind", CLASSES, ids=lambda kind: kind.__name__)
def test_an_error_crosses_the_pipe_as_its_own_class(kind: type[ForwardError]) -> None:
    error = kind("it went wrong", hop="bastion", hint="Mend it")
    other = Fault.of(error).error()
    assert type(other) is kind
    assert str(other) == str(error) == str(Fault.of(error))


def test_a_class_of_a_newer_engine_arrives_as_the_root() -> None:
    error = from_code("TeapotError", "short and stout", hop="bastion", hint="Pour")
    assert type(error) is ForwardError
    assert "short and stout" in str(error)


@pytest.mark.parametrize(("name", "twin", "number"), [(name, *twin) for name, twin in _TWINS.items()])
def test_an_error_with_an_os_twin_is_caught_as_it_and_has_its_errno(
    name: str, twin: type[OSError], number: int
) -> None:
    error = from_code(name, "it went wrong", hop="127.0.0.1:5432", hint="Mend it")
    with pytest.raises(twin) as caught:
        raise error
    assert caught.value.errno == number
    assert "it went wrong" in str(caught.value)
    assert pickle.loads(pickle.dumps(error)).errno == number


def test_exactly_the_drawn_twins_are_os_errors() -> None:
    assert {kind.__name__ for kind in CLASSES if issubclass(kind, OSError)} == set(_TWINS)
    assert issubclass(SpecError, ValueError)


def test_a_notebook_shows_one_line_first_and_then_the_cause() -> None:
    try:
        try:
            raise OSError("the cause")
        except OSError as cause:
            raise PortInUseError("the port is taken", hop="127.0.0.1:5432") from cause
    except PortInUseError as error:
        first, then = error._render_traceback_(), error._render_traceback_()
    assert first == ["EADDRINUSE 127.0.0.1:5432: the port is taken"]
    assert any("the cause" in line for line in then)
    assert any("Traceback" in line for line in then)
