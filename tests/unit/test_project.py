"""The project file: found upwards, read by the rules of the line; what is wrong in it told by file, line and fix."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from xec_forward.client import project
from xec_forward.client.profiles import read_line
from xec_forward.errors import ConfigError, SpecError
from xec_forward.line import KUBERNETES, SSH, Action, Line, split
from xec_forward.line.flags import CLUSTER_FLAGS, FLAGS, Flag
from xec_forward.options import ClusterTarget, CommandTarget, Service, SshTarget, TunnelOptions
from xec_forward.source import parse_source
from xec_forward.spec import Kind, parse_forward

SECRET = "hunter2-s3cret"
SALES = """\
[tunnels.sales]
ssh = "bastion"
forward = "postgresql://ana@pg.vpc/sales"
password = "keyring:sales/ana"
hold = 60
private_key = ["keys/one", "~/two"]
allowed_ips = "10.0.0.0/8"

[tunnels.cache]
k8s = "svc/redis"
forward = [6379, "metrics=:9121"]
namespace = "prod"

[tunnels.office]
ssh = "ana@office:2222"
compression = true

[tunnels.pods]
context = "prod"

[tunnels.warehouse]
command = "aws ssm start-session --local-port %p"
forward = "db=5439"

[groups]
analytics = ["sales", "cache"]
everything = ["analytics", "office", "sales"]
"""


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working folder, which is two below that of the project file."""
    inner = tmp_path / "notebooks" / "deep"
    inner.mkdir(parents=True)
    monkeypatch.chdir(inner)
    return tmp_path


def write(folder: Path, text: str = SALES, name: str = "xec_forward.toml") -> Path:
    path = folder / name
    path.write_text(text)
    return path


def read(text: str, **options: Any) -> Line:
    return read_line(split(text), **options)


def refused(text: str) -> str:
    with pytest.raises(ConfigError) as caught:
        read(text)
    assert "\n" not in str(caught.value)
    assert SECRET not in str(caught.value)
    return str(caught.value)


# What stands for what


def test_profile_is_the_line_that_it_says(folder: Path) -> None:
    write(folder)
    line = read("@sales")
    keys = (f"{folder}/keys/one", "~/two")
    source = parse_source("keyring:sales/ana", "")
    assert replace(line, said=frozenset()) == Line(
        Action.OPEN,
        target=SshTarget("bastion", private_key=keys),
        forwards=(parse_forward("postgresql://ana@pg.vpc/sales"),),
        tunnel=TunnelOptions(hold=60, allowed_ips=("10.0.0.0/8",)),
        service=Service(name="sales", password=source.reference),
        sources={source.reference: source},
    )


def test_either_magic_opens_a_profile_of_either_kind(folder: Path) -> None:
    write(folder)
    line = read("@cache")
    assert line.target == ClusterTarget(namespace="prod")
    assert [(each.connect.host, each.name) for each in line.forwards if each.connect] == [
        ("svc/redis", ""),
        ("svc/redis", "metrics"),
    ]
    assert line == read("@cache", dialect=KUBERNETES)
    assert read("@sales", dialect=KUBERNETES) == read("@sales")
    command = read("@warehouse")
    assert isinstance(command.target, CommandTarget)
    assert command.service.name == ""  # its SPEC brings one


def test_what_stands_on_the_line_wins(folder: Path) -> None:
    write(folder)
    line = read("@sales --hold 3 --lazy -i other --as pg -l ana --password env:X --allowed-ips ::1")
    assert line.target == SshTarget("bastion", username="ana", private_key=("other",))
    assert line.tunnel == TunnelOptions(hold=3, lazy=True, allowed_ips=("::1/128",))
    assert line.service == Service(name="pg", password=parse_source("env:X", "").reference)
    assert read("-i a -i b @sales").target == SshTarget("bastion", private_key=("a", "b"))
    assert read("@cache -n other").target == ClusterTarget(namespace="other")
    assert read("@sales 0:other.vpc:80").forwards == (parse_forward("0:other.vpc:80"),)
    assert [each.kind for each in read("@sales -D 0 5432").forwards] == [Kind.DYNAMIC, Kind.LOCAL]


def test_profile_without_forward_is_a_target_for_what_the_line_opens(folder: Path) -> None:
    write(folder)
    line = read("@office pg=pg.vpc:5432")
    assert line.target == SshTarget("office", username="ana", port=2222, compression=True)
    assert line.forwards == (parse_forward("pg=pg.vpc:5432"),)
    assert read("@office pg.vpc:5432").service.name == ""
    assert read("@pods svc/redis 6379").target == ClusterTarget(context="prod")
    assert read("@office", head=True).forwards == ()
    with pytest.raises(SpecError, match="RESOURCE is missing"):
        read("@pods").require_forwards()


def test_at_sign_after_an_option_is_its_value(folder: Path) -> None:
    write(folder)
    assert read("@office -i @sales 5432").target == SshTarget(
        "office", username="ana", port=2222, compression=True, private_key=("@sales",)
    )
    with pytest.raises(SpecError):
        read("office -- @sales")
    with pytest.raises(SpecError, match="without an @"):
        read("--close @sales")
    assert read("--doctor @sales").action is Action.DOCTOR
    assert read("@cache --help").text.startswith("%k8s_forward")


def test_group_is_the_lines_of_its_tunnels_each_once(folder: Path) -> None:
    write(folder)
    line = read("@analytics --lazy")
    assert [member.service.name for member in line.members] == ["sales", "cache"]
    assert [type(member.target) for member in line.members] == [SshTarget, ClusterTarget]
    assert all(member.tunnel.lazy for member in line.members)
    assert line.members[0].tunnel.hold == 60
    assert line.service.name == "analytics"
    assert line.forwards == (*line.members[0].forwards, *line.members[1].forwards)
    assert set(line.members[0].sources) <= set(line.sources)
    named = read("@sales @cache --as both --dry-run")
    assert (named.service.name, named.service.dry_run) == ("both", True)
    assert [member.service.name for member in named.members] == ["sales", "cache"]
    assert [member.service.name for member in read("@everything @cache").members] == ["sales", "cache", ""]
    assert read("@sales @sales") == read("@sales")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("@analytics 5432", "ESPEC a SPEC stands beside several profiles"),
        ("--doctor @analytics", "ESPEC --doctor takes one profile. Write @sales or @cache"),
        ("@analytics -n x", "ESPEC -n belongs to %k8s_forward"),
        ("@cache @sales -i key", "ESPEC -i belongs to %forward"),
        ("@sales --command 'x %p'", "ESPEC --command: @sales names a host"),
        ("@sales --hold x", "ESPEC --hold 'x': a number"),
        ("@", "ESPEC after @ a name is expected"),
    ],
)
def test_what_does_not_go_together_on_the_line_is_told(folder: Path, text: str, said: str) -> None:
    write(folder)
    with pytest.raises(SpecError) as caught:
        read(text)
    assert str(caught.value).startswith(said)


# Where the file is


def test_nearest_file_counts_and_its_own_name_first(folder: Path) -> None:
    assert project.find() is None
    outer = write(folder, '[tool.xec_forward.tunnels.outer]\nssh = "a"\n', "pyproject.toml")
    assert project.find() == project.find(folder)
    found = project.find()
    assert found is not None
    assert (found.path, found.names) == (outer, ["outer"])
    write(folder / "notebooks", "[tool.other]\nx = 1\n", "pyproject.toml")
    write(folder / "notebooks" / "deep", "[tool.other]\nxec_forward = 1 # no table of ours\n", "pyproject.toml")
    found = project.find()
    assert found is not None
    assert found.path == outer
    write(folder)
    found = project.find()
    assert found is not None
    assert found.names == ["sales", "cache", "office", "pods", "warehouse", "analytics", "everything"]


def test_no_file_and_no_such_name_are_told(folder: Path) -> None:
    assert refused("@sales") == (
        "ECONFIG @sales: there is no xec_forward.toml here or above, and no [tool.xec_forward] in a pyproject.toml. "
        "Write xec_forward.toml with [tunnels.sales] in it"
    )
    path = write(folder)
    assert refused("@sale") == f"ECONFIG {path}: there is no tunnel or group sale. Did you mean @sales?"
    assert "It has @sales, @cache" in refused("@zzz")


def test_file_that_anybody_could_have_written_is_refused(folder: Path) -> None:
    path = write(folder)
    path.chmod(0o666)
    assert refused("@sales").endswith(f"anybody could have written it. Run chmod o-w {path}")
    path.chmod(0o644)
    assert read("@sales")
    folder.chmod(0o1777)
    assert read("@sales")  # ours, whoever else may write there
    if os.getuid() == 0:
        os.chown(path, 12345, 12345)
        assert "Move it to a folder of your own" in refused("@sales")
        folder.chmod(0o755)
        assert read("@sales")  # a colleague's folder


def test_working_folder_that_is_gone_has_no_project(folder: Path) -> None:
    gone = folder / "gone"
    gone.mkdir()
    os.chdir(gone)
    gone.rmdir()
    assert "there is no xec_forward.toml" in refused("@sales")


# What is wrong in it


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("hold = 'x'", "hold 'x': a number of seconds from 0 to 1000000 is expected. Write hold = 30"),
        ("hold = true", "hold: a number is expected"),
        ("port = 99999", "port '99999': a whole number from 1 to 65535 is expected. Write port = 22"),
        ("lazy = 1", "lazy: true or false is expected. Write lazy = true"),
        ('ttl = "soon"', "ttl 'soon': a duration is expected. Write ttl = \"90s\""),
        (
            'host_key = "strickt"',
            "host_key 'strickt': ask, strict or accept-new is expected. Write host_key = \"strict\"",
        ),
        (
            f'password = "{SECRET}"',
            "password takes the place a secret comes from, not the secret itself. Give env:NAME",
        ),
        (
            f'password = "env:{SECRET} x"',
            'password env: wants the name of an environment variable. Write password = "env',
        ),
        ("password = 12345", "password takes the place a secret comes from"),
        (f'password = ["{SECRET}"]', "password: a string is expected"),
        (f'passwort = "{SECRET}"', "there is no key passwort. Did you mean password?"),
        (f'dsn = "postgresql://ana:{SECRET}@/x"', "dsn: the connection string holds a password"),
        (f'dsn = "postgresql://ana:{SECRET}@/x"', 'password = "SOURCE"'),
        (f'forward = "postgresql://ana:{SECRET}@pg.vpc/x"', 'password = "SOURCE"'),
        ('forward = "5432:pg.vpc"', 'Write forward = "5432:pg.vpc:5432"'),
        ('forward = ["pg.vpc:1", "-N x"]', "forward: '-N x' is no SPEC"),
        ("forward = {}", "forward: a string, or a list of them, is expected"),
        ("private_key = [[]]", "private_key: a string, or a list of them, is expected"),
        ("auto-port = true", "there is no key auto-port. Did you mean auto_port?"),
        ('as = "x"', 'there is no key as. Write name = "pg"'),
        ('namespace = "x"', "namespace belongs to tunnels with k8s"),
        ('k8s = "svc/x"', "ssh and k8s do not go together"),
        ('password = "secret:a/b"', "password secret: is read from a cluster"),
        ("hold = 1979-05-27", "hold: a number is expected. Write hold = 30"),
        ("ttl = true", "ttl: a number is expected. Write ttl = 90"),
        ("password = true", 'password: a string is expected. Write password = "env:NAME"'),
        ("forward = []", 'forward: the list is empty. Write forward = "pg.vpc:5432", or leave forward out'),
        ("forward = [true]", 'forward: a string, or a list of them, is expected. Write forward = "pg.vpc:5432"'),
    ],
)
def test_bad_key_or_value_is_told_with_its_line_and_the_fix(folder: Path, line: str, said: str) -> None:
    path = write(
        folder, f'[groups]\n\n[tunnels.bad]\nssh = "bastion"\n\n{line}\n[tunnels.good]\nssh = "hold"\nhold = 1\n'
    )
    text = refused("@bad")
    assert text.startswith(f"ECONFIG {path} line 6: "), text
    assert said in text
    assert read("@good 5432")  # a slip in one table spoils no other


@pytest.mark.parametrize(
    ("text", "line", "said"),
    [
        ("[tunnels.x]\nhold = 1\n", 1, "x: it says nothing of where to"),
        ("[tunnels]\nx = 5\n", 2, "x is no table"),
        ("tunnels = 5\n", 1, "tunnels is no table"),
        ('[tunnels.x]\nssh = "a"\n"ho\\u001bld" = 1\n', 1, "there is no key ho\\x1bld"),
        ("[tunnel.x]\n", 1, "there is no key tunnel. Write [tunnels.NAME]"),
        ('[tunnels."a b"]\nssh = "a"\n', 1, "'a b'"),
        ("[tunnels]\nx = { ssh = 'a', hold = 'b' }\n", 2, "hold 'b'"),
        ("[tunnels]\nx.ssh = 'a'\nx.hold = 'b'\n", 3, "hold 'b'"),
        ("tunnels.x.hold = 'b'\ntunnels.x.ssh = 'a'\n", 1, "hold 'b'"),
        (
            '["tunnels".\'x\'] # [tunnels.y]\nforward = [\n  "a:1",\n  "hold = 1",\n]\nssh = "a"\nhold = ""\n',
            2,
            "'hold = 1': it holds white",
        ),
        (
            "[tunnels.x]\nk8s = 'svc/a 80'\n",
            2,
            "RESOURCE and PORT are two keys. Write what follows the space as forward",
        ),
        ("[tunnels.x]\nk8s = 'svc/a'\nforward = '1:2:3'\n", 3, "'1:2:3' is no PORT"),
        ("[tunnels.x]\nk8s = 'svc/a'\nforward = '-D 1'\n", 3, "forward: '-D 1' is no PORT"),
        ("[tunnels.x]\ncontext = 'a'\nforward = 80\n", 3, "no RESOURCE"),
        ("[tunnels.x]\nssh = ['a']\n", 2, 'ssh: a string is expected. Write ssh = "bastion"'),
        ("[tunnels.x]\nk8s = true\n", 2, 'k8s: a string is expected. Write k8s = "svc/postgres"'),
        ("[tunnels.x]\nk8s = 'svc/a'\nforward = []\n", 3, "the list is empty. Write forward = 5432, or leave"),
        ("[tunnels.x]\nssh = 'a 80'\n", 2, "TARGET and SPEC are two keys"),
        (f"[tunnels.x]\nssh = 'ana:{SECRET}@a'\n", 2, "ssh_password"),
        (f"[tunnels.x]\nssh = 'a'\npassword = {SECRET}\n", 3, "this is no TOML"),
        (f'[tunnels.x]\nssh = "a"\npassword = "{SECRET}\n', 3, "this is no TOML"),
        ("[tunnels.x]\nssh = 'a'\n[tunnels.x]\n", 3, "stands twice"),
        ("[tunnels.x]\nssh = 'a'\nssh = 'b'\n", 3, "stands twice"),
        ("[tunnels.x]\nssh = '''a", 2, "this is no TOML"),
    ],
)
def test_bad_table_is_told_with_its_line(folder: Path, text: str, line: int, said: str) -> None:
    path = write(folder, text)
    message = refused("@x" if "a b" not in text else "'@a b'")
    assert message.startswith(f"ECONFIG {path} line {line}: "), message
    assert said in message


@pytest.mark.parametrize(
    ("text", "line", "said"),
    [
        (
            'a = ["b"]\nb = ["c", "x"]\nc = ["a"]',
            6,
            "the groups lead in a circle: a -> b -> c -> a. Take one of them out",
        ),
        ('a = ["a"]', 4, "a -> a"),
        ('a = ["y"]', 4, "a: there is no y"),
        ('a = ["xx"]', 4, "Did you mean x?"),
        ('a = "x"', 4, 'a: a list of names is expected. Write a = ["sales"]'),
        ("a = []", 4, "a list of names"),
        ("a = [1]", 4, "a list of names"),
        ('a = ["x"]\nx = ["x"]', 5, "x is a tunnel and a group"),
    ],
)
def test_bad_group_is_told_with_its_line(folder: Path, text: str, line: int, said: str) -> None:
    path = write(folder, f"[tunnels.x]\nssh = 'a'\n[groups]\n{text}\n")
    message = refused("@a")
    assert message.startswith(f"ECONFIG {path} line {line}: "), message
    assert said in message


def test_places_in_pyproject_are_those_of_that_file(folder: Path) -> None:
    text = "[project]\nhold = 1\n\n[tool.xec_forward.tunnels.x]\nssh = 'a'\nhold = 'b'\n"
    path = write(folder, text, "pyproject.toml")
    assert refused("@x").startswith(f"ECONFIG {path} line 6: hold 'b'")
    write(folder, "[tool.xec_forward]\nx = 1\n", "pyproject.toml")
    assert refused("@x").startswith(f"ECONFIG {path} line 2: there is no key x. Write [tool.xec_forward.tunnels.NAME]")
    write(folder, "[tool]\nxec_forward = 1\n", "pyproject.toml")
    assert refused("@x").startswith(f"ECONFIG {path} line 2: tool.xec_forward is no table")


def test_groups_of_groups_without_end_are_gone_through_once(folder: Path) -> None:
    doubled = "".join(f'g{n} = ["g{n - 1}", "g{n - 1}"]\n' for n in range(1, 60))
    write(folder, f"[tunnels.x]\nssh = 'a'\nforward = 80\n[groups]\ng0 = ['x']\n{doubled}")
    assert len(read("@g59").members) == 1


def test_file_that_is_no_text_or_too_large_is_told(folder: Path) -> None:
    path = folder / "xec_forward.toml"
    path.write_bytes(b"[tunnels.x]\nssh = '\xff'\n")
    assert refused("@x") == f"ECONFIG {path} line 2: this is no UTF-8. Save it as UTF-8"
    path.write_bytes(b"#" * (2 << 20))
    assert "too large" in refused("@x")
    path.write_text(f"x = {'[' * 20000}")
    assert refused("@x")


# Every option


def _sample(flag: Flag) -> object:
    """A value that the file may have for an option, and the line too."""
    samples: dict[str, object] = {
        "SOURCE": "env:X",
        "URL": "postgresql://ana@/x",
        "HOST[,HOST]": ["a", "b@c:1"],
        "CIDR[,CIDR]": ["::1", "10.0.0.0/8"],
        "FILE": "/file",
        "PATH": "/path",
        "A": "127.0.0.2",
        "NAME": "name",
        "USER": "ana",
        "TEXT": "x %p",
        "1-9": 3,
        "PORT": 2222,
        "N": 2,
        "S": 1.5,
        "D": "1h30m",
        "D|yes|no": True,
    }
    if flag.switch:
        return True
    return samples.get(flag.metavar) or flag.metavar.split("|")[0]


@pytest.mark.parametrize("kind", ["ssh", "k8s", "command"])
def test_every_option_of_the_line_is_a_key_with_the_same_meaning(folder: Path, kind: str) -> None:
    flags = dict.fromkeys((CLUSTER_FLAGS if kind == "k8s" else FLAGS).values())
    sections = {"ssh": (SshTarget,), "k8s": (ClusterTarget,), "command": (CommandTarget,)}[kind]
    first = {"ssh": ("ssh = 'h'", "h"), "k8s": ("k8s = 'svc/h'", "svc/h"), "command": ("command = 'c %p'", "")}[kind]
    seen = 0
    for flag in flags:
        if flag.section not in (*sections, TunnelOptions, Service) or flag.field == "command":
            continue
        value = _sample(flag)
        shown = str(value).lower() if isinstance(value, bool) else repr(value)
        write(folder, f"[tunnels.t]\n{first[0]}\nforward = 80\n{flag.field} = {shown}\n")
        if value is True:
            text = f"{flag.long} yes" if flag.metavar else flag.long
        else:
            text = f"{flag.long} {','.join(value) if isinstance(value, list) else value}"
        name = "" if flag.field == "name" else "--as t"
        command = "--command 'c %p'" if kind == "command" else ""
        line = read(f"{first[1]} 80 {text} {name} {command}", dialect=KUBERNETES if kind == "k8s" else SSH)
        assert replace(read("@t"), said=frozenset()) == replace(line, said=frozenset()), flag.field
        assert (flag.section, flag.field) in read("@t").said
        seen += 1
    assert seen > 20


@given(st.text(max_size=200))
def test_any_file_is_read_or_refused_in_one_line(folder_text: str) -> None:
    path = Path("xec_forward.toml")
    path.write_text(folder_text, encoding="utf-8", errors="replace")
    with pytest.raises((ConfigError, SpecError), match=r"\A[^\n]+\Z"):
        read("@x").require_forwards()


@given(st.lists(st.sampled_from(["[tunnels.x]", "x = 1", "hold = 2", "a.b = 3", "[x.y]", "# hold", "z = {hold = 1}"])))
def test_line_of_a_key_is_one_of_the_file(lines: list[str]) -> None:
    assert 1 <= project.line_of("\n".join(lines), ("tunnels", "x", "hold")) <= max(1, len(lines))
