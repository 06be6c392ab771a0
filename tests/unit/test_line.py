"""A whole line: words to one dataclass, every bad line to one SpecError, and no secret in any of them."""

from __future__ import annotations

import pickle
import shlex
import time
from collections.abc import Callable
from dataclasses import fields

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from xec_forward.client.lines import wanted_of
from xec_forward.errors import SpecError
from xec_forward.line import KUBERNETES, Action, Line, parse_line, parse_list, split
from xec_forward.line.flags import CLUSTER_FLAGS, FLAGS, duration
from xec_forward.options import ClusterTarget, CommandTarget, Service, SshTarget, TunnelOptions
from xec_forward.source import Source, SourceKind
from xec_forward.spec import Endpoint, Forward, Kind, Resource, parse_forward, parse_port

MARK = "hunter2Zq"
PG = "5432:pg.vpc:5432"


def read(text: str) -> Line:
    return parse_line(split(text))


def problem(call: Callable[[], object]) -> SpecError:
    with pytest.raises(SpecError) as caught:
        call()
    assert len(str(caught.value).splitlines()) == 1
    assert caught.value.__cause__ is None
    assert caught.value.__context__ is None
    return caught.value


def assert_silent(error: BaseException) -> None:
    assert MARK.lower() not in f"{error} {error!r} {error.args} {error.__cause__} {error.__context__}".lower()


def test_an_empty_line_asks_for_the_list() -> None:
    assert read("") == read("   # nothing") == Line(Action.LIST)


def test_an_option_between_target_and_spec_is_no_obstacle() -> None:
    line = read(f"bastion --as pg {PG}")
    assert line.action is Action.OPEN
    assert line.target == SshTarget("bastion")
    assert line.forwards == (parse_forward(PG),)
    assert line.service == Service(name="pg")


@pytest.mark.parametrize(
    "text",
    [
        f"bastion {PG} --as pg --hold 5 -p 2222",
        f"--as pg --hold 5 -p 2222 bastion {PG}",
        f"--as=pg --hold=5 --port=2222 bastion {PG}",
        f"bastion --hold 5 {PG} -p2222 --as pg  # a comment",
        f"--as pg --hold 5 -p 2222 -- bastion {PG}",
        f"bastion --as pg --hold 5 -p 2222 -L {PG}",
        f"-L{PG} bastion --as 'pg' --hold \"5\" -p 2222",
        f"--as x --as pg --hold 5 -p 2222 bastion:2222 {PG}",
    ],
)
def test_words_may_stand_in_any_order(text: str) -> None:
    line = read(text)
    assert line.target == SshTarget("bastion", port=2222)
    assert line.forwards == (parse_forward(PG),)
    assert (line.service.name, line.tunnel.hold) == ("pg", 5.0)


def test_remote_and_dynamic_keep_their_place_among_the_specs() -> None:
    line = read("-R api=8080:localhost:3000 bastion 5432 -D 1080 pg.vpc:5432 -R 1:h:2 -L 0:x:1")
    assert [forward.kind for forward in line.forwards] == [
        *(Kind.REMOTE, Kind.LOCAL, Kind.DYNAMIC, Kind.LOCAL, Kind.REMOTE, Kind.LOCAL)
    ]
    assert line.forwards[0] == Forward(Kind.REMOTE, Endpoint(port=8080), Endpoint("localhost", 3000), "api")


def test_a_line_from_the_shell_history_works_and_says_what_it_ignored() -> None:
    line = read("-fNTL 5432:pg.vpc:5432 ana@bastion -p 2222 -N")
    assert line.target == SshTarget("bastion", "ana", 2222)
    assert line.forwards == (parse_forward(PG),)
    assert line.notes == ("-f -N -T ignored: a tunnel here runs beside the cells anyway",)
    assert read(f"bastion {PG}").notes == ()


def test_every_option_of_the_dataclasses_is_a_flag_and_arrives() -> None:
    values = {"S": "7", "N": "7", "D": "7", "PORT": "7", "USER": "ana", "NAME": "pg", "URL": "postgresql://ana@/sales"}
    values |= {"FILE": "/k", "A": "127.0.0.2", "SOURCE": "env:X", "PATH": "/m", "1-9": "7", "D|yes|no": "7"}
    values |= {"HOST[,HOST]": "jump", "TEXT": "serve %p", "CIDR[,CIDR]": "10.0.0.0/8"}
    places: dict[object, Callable[[Line], object]] = {
        SshTarget: lambda line: line.target,
        CommandTarget: lambda line: line.target,
        TunnelOptions: lambda line: line.tunnel,
        Service: lambda line: line.service,
    }
    for spelling, flag in FLAGS.items():
        value = [] if flag.switch else [values.get(flag.metavar, flag.metavar.split("|")[-1])]
        target = [] if flag.section is CommandTarget else ["bastion"]
        line = parse_line([*target, spelling, *value, PG])
        place = places[flag.section](line)
        found = getattr(place, flag.field)
        if flag.switch:
            assert found is True
        elif flag.source:
            assert found == Source(SourceKind.ENV, "X").reference
        elif flag.field == "proxy":
            assert found == (SshTarget("jump"),)
        else:
            assert str(found) in (value[0], f"{value[0]}.0", f"('{value[0]}',)")
    declared = {name.name for kind in (SshTarget, CommandTarget, TunnelOptions, Service) for name in fields(kind)}
    assert declared - {flag.field for flag in FLAGS.values()} == {"host", "agent"}


def test_an_identity_file_may_be_given_again() -> None:
    target = read(f"bastion -i a -i b --private-key c {PG}").target
    assert isinstance(target, SshTarget)
    assert target.private_key == ("a", "b", "c")


def test_sources_travel_as_references_that_tell_nothing() -> None:
    line = read(f"bastion {PG} --password 'cmd:pass show {MARK}' --passphrase keyring:{MARK}/ana --ssh-password=prompt")
    assert isinstance(line.target, SshTarget)
    password = line.sources[line.service.password]
    assert (password.kind, password.value) == (SourceKind.CMD, f"pass show {MARK}")
    assert line.sources[line.target.passphrase].keyring_entry == (MARK, "ana")
    assert line.sources[line.target.ssh_password] == Source(SourceKind.PROMPT)
    assert MARK not in f"{line!r} {line}"
    assert pickle.loads(pickle.dumps(line)) == line


def test_a_target_made_in_python_is_used_as_it_is() -> None:
    made = SshTarget("10.0.0.7", "ana", private_key=("k",))
    line = parse_line(["<target 1>", PG, "--hold", "3"], {"<target 1>": made})
    assert line.target is made
    error = problem(lambda: parse_line(["-p", "1", "<target 1>", PG, "-l", "x"], {"<target 1>": made}))
    assert "--port, --username" in error.message
    assert "xf.ssh" in error.hint


def test_a_line_without_spec_is_a_lists_head_and_can_be_refused() -> None:
    head = read("bastion --env")
    assert head.forwards == ()
    assert "SPEC is missing" in problem(head.require_forwards).message
    read(f"bastion {PG}").require_forwards()
    read("").require_forwards()


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("--close pg", Line(Action.CLOSE, names=("pg",))),
        ("--close pg redis_2", Line(Action.CLOSE, names=("pg", "redis_2"))),
        ("pg --close redis", Line(Action.CLOSE, names=("pg", "redis"))),
        ("--close=pg --quiet", Line(Action.CLOSE, names=("pg",), service=Service(quiet=True))),
        ("--close-all", Line(Action.CLOSE_ALL)),
        ("--reconnect pg", Line(Action.RECONNECT, names=("pg",))),
    ],
)
def test_actions_on_tunnels_are_read(text: str, line: Line) -> None:
    assert read(text) == line


@pytest.mark.parametrize("text", ["-h", "--help", "bastion --help --nonsense", f"bastion {PG} -Nh"])
def test_help_is_an_action_and_not_an_exit(text: str) -> None:
    line = read(text)
    assert line.action is Action.HELP
    assert line.text.startswith("%forward [OPTIONS] TARGET [SPEC ...]")
    assert all(spelling in line.text for spelling in FLAGS)
    assert all(flag.help.split()[0] in line.text for flag in FLAGS.values())
    assert max(map(len, line.text.splitlines())) <= 110


@pytest.mark.parametrize(
    ("text", "reason", "hint"),
    [
        ("--env", "TARGET is missing", "%forward bastion 5432:pg.vpc:5432"),
        (f"-L {PG}", "TARGET is missing", "%forward bastion"),
        (f"{PG} bastion", "5432:pg.vpc:5432", "TARGET comes first"),
        (f"bastion {PG} --jump x", "this version has no option --jump", "--help"),
        (f"bastion {PG} -X", "this version has no option -X", "--help"),
        (f"bastion {PG} --panel", "--panel stands alone", "%forward --panel"),
        (f"bastion {PG} --pass env:X", "no option --pass", "--password or --passphrase"),
        (f"bastion {PG} --tiemout 3", "no option --tiemout", "--timeout"),
        (f"bastion {PG} --usrname=x", "no option --usrname", "--username"),
        (f"bastion {PG} -o Port=3", "no option -o", "ssh_config"),
        (f"bastion {PG} -5", "no option -5", "--help"),
        (f"bastion {PG} --timeout", "--timeout needs a value", "--timeout S"),
        (f"bastion {PG} --timeout --env", "--timeout needs a value", "--timeout S"),
        (f"bastion {PG} -l -p", "-l needs a value", "-l USER"),
        (f"bastion {PG} --as=", "--as needs a value", "--as NAME"),
        (f"bastion {PG} --timeout 0", "--timeout '0'", "--timeout 30"),
        (f"bastion {PG} --timeout -3", "--timeout '-3'", "--timeout 30"),
        (f"bastion {PG} --hold inf", "--hold 'inf'", "--hold 30"),
        (f"bastion {PG} --hold nan", "--hold 'nan'", "--hold 30"),
        (f"bastion {PG} --hold 1e3", "--hold '1e3'", "--hold 30"),
        (f"bastion {PG} -p 0", "-p '0'", "-p 22"),
        (f"bastion {PG} -p ssh", "-p 'ssh'", "-p 22"),
        (f"bastion {PG} --server-alive-count-max 0", "'0'", "max 3"),
        (f"bastion {PG} --host-key acept-new", "'acept-new'", "accept-new"),
        (f"bastion {PG} --env=yes", "--env takes no value", "--env alone"),
        (f"bastion {PG} --as class", "class", "class_"),
        (f"bastion {PG} --as my-db", "identifier", "my_db"),
        (f"bastion {PG} --local-interface a/b", "'a/b'", "127.0.0.1"),
        (f"bastion {PG} --dsn nonsense", "not a URL", "postgresql://USER@/DATABASE"),
        (f"bastion {PG} --dsn 'postgresql://ana@/s\x07'", "control character", ""),
        ("-l ana ben@bastion 5432", "different things", "Leave one"),
        ("-p 22 bastion:23 5432", "different things", "Leave one"),
        ("bastion a=5432 a=5433", "a is given twice", "name of its own"),
        ("bastion a=5432 --as b", "name the same tunnel", "Leave one"),
        ("bastion -R 8080", "target's port", "-R 8080:localhost:8080"),
        ("bastion -D x", "local port", "-D 1080"),
        ("bastion -D", "-D needs a value", "-D SPEC"),
        ("bastion /tmp/a.sock:pg:5432 --allowed-ips ::1", "unix socket has no address", "rights of the file"),
        ("bastion 5432 -R /tmp/a.sock:pg:5432 --allowed-ips ::1", "unix socket has no address", "rights of the file"),
        ("bastion ''", "empty", "5432:pg.vpc:5432"),
        ("bastion -", "'-'", "5432:pg.vpc:5432"),
        ("bastion -- --env", "'--env'", "5432:pg.vpc:5432"),
        ("--close", "needs the name", "%forward alone"),
        ("--close 5432", "'5432': --close takes names", "%forward alone"),
        ("--close pg --env", "--env and --close", "lines of their own"),
        ("--close pg --as x", "--as and --close", "lines of their own"),
        ("--close pg -D 0", "-D and --close", "lines of their own"),
        ("--close-all pg", "takes no names", "--close pg"),
        ("--close pg --reconnect pg", "do not go together", "two lines"),
        ("--reconnect", "needs the name", "%forward alone"),
        ("bastion 'x", "a quote (') is not closed", "Close it"),
        ('bastion "x', 'a quote (") is not closed', "Close it"),
        ("bastion x\\", "backslash", "twice"),
    ],
)
def test_every_bad_line_is_one_line_with_its_fix(text: str, reason: str, hint: str) -> None:
    error = problem(lambda: read(text))
    assert reason in error.message
    assert hint in error.hint


@pytest.mark.parametrize("option", ["--password", "--passphrase", "--ssh-password"])
@pytest.mark.parametrize(
    "rest",
    [
        *("{0} {1}", "{0}={1}", "{0} --{1}", "{0} -{1}", "{0}=--{1}", "{0} '{1} x'", "{0} 'x {1}'", "{0} x:{1}"),
        *("{0} secret:{1}/x", "{0} env: {1}", "{0} 'env:{1} x'", "{0} keyring:{1}", "{0} prompt:{1}"),
        *("{0} cmd:echo {1}:x", "{0} cmd:echo --{1}", "{0} cmd:echo -z{1}", "{0} cmd:echo -- {1}:x", "{0} file:/a {1}"),
        *("{0} prompt {1}", "{0} cmd:a b=5432 {1}", "{0} '{1}", "{0} {1}\\", "{0}x {1}", "{0}x={1}", "{0}={1} -D x"),
        *("{0} {1} --nonsense", "--nonsense {0} {1}", "-D x {0} {1}", "{0} {1} --help=x", "-z {0} {1}"),
        *("{0} '' {1}", "{0}= {1}", "{0} ={1}", "{0} \x00{1}", "-q{0} {1}", "{0} 'cmd:{1}\n'"),
    ],
)
def test_the_value_of_a_source_option_never_appears(option: str, rest: str) -> None:
    text = rest.format(option, MARK)
    assert_silent(problem(lambda: read(f"bastion {PG} {text}")))
    for front in ("", "bastion "):
        # Here the word after a SOURCE may be a proper TARGET; where it is not, it is not repeated.
        try:
            read(front + text)
        except SpecError as error:
            assert_silent(error)


@pytest.mark.parametrize(
    "text",
    [
        *("bastion {} --dsn postgresql://ana:{}@/s", "bastion {} --dsn ana:{}@/s", "bastion {} --dsn={}"),
        *("bastion {} --dsn postgresql://ana@/s?password={}", "bastion {} --dsn 'host=h password={}'"),
        *("bastion {} --dsn postgresql://ana:12/{}@h/s", "bastion {} --dsn 'redis://:{}@h' --password env:X"),
        *("ana:{1}@bastion {0}", "ssh://ana:{1}@bastion {0}", "bastion {0} -l ana:{1}"),
        *("bastion postgresql://ana:{1}@pg.vpc/sales", "bastion -L ana:{1}@pg.vpc:5432", "bastion -D {1}@h:1"),
        *("--close ana:{1}@pg", "bastion {0} --as ana:{1}@pg", "bastion {0} --local-interface ana:{1}@pg"),
    ],
)
def test_a_literal_password_in_a_url_is_refused_and_never_repeated(text: str) -> None:
    error = problem(lambda: read(text.format(PG, MARK)))
    assert_silent(error)
    if "--dsn p" in text or "@pg.vpc/" in text:
        assert "--password SOURCE" in error.hint
    if "@bastion" in text:
        assert "--ssh-password SOURCE" in error.hint


_pieces = st.sampled_from(
    [
        *(*FLAGS, "--close", "--reconnect", "-R", "-D", "-L", "-N", "--", "bastion", PG, "env:X", "cmd:a", "prompt"),
        *("=", "'", '"', "\\", "#", " ", "-", "@", "://", ":", "x"),
    ]
)


@settings(deadline=None)  # the test has a limit of its own, in processor time
@given(st.lists(st.one_of(_pieces, st.text(max_size=5)), max_size=12), st.sampled_from(["", " ", "="]))
@example(["bastion --dsn " + "pass" * 5000], "")
@example(["bastion --password keyring:" + "/" * 50000], "")
@example(["bastion --password 'cmd:" + " " * 50000 + "'"], "")
@example(["-" + "N" * 5000], "")
@example(["--" + "a" * 5000], "")
@example(["bastion --hold " + "9" * 5000], "")
@example(["'" * 4999], "")
@example(["\\" * 4999], "")
@example(["\ud800 --password env:\ud800"], "")
@example(["bastion 5432 --password 'cmd:\udc80'"], "")
@example(["bastion --dsn " + "a=" * 5000], "")
@example(["bastion --dsn a://" + "[" * 5000], "")
def test_no_text_raises_anything_but_spec_error_or_takes_long(pieces: list[str], glue: str) -> None:
    text, start = glue.join(pieces), time.process_time()
    try:
        assert isinstance(read(text), Line)
        parse_list(Line(Action.OPEN, target=SshTarget("bastion")), text)
    except SpecError as error:
        shown = str(error)
    else:
        shown = ""
    assert len(shown.splitlines()) <= 1
    assert len(shown) < 1500
    assert time.process_time() - start < 0.5


@given(
    st.lists(_pieces, max_size=6),
    st.sampled_from(["--password", "--passphrase", "--ssh-password"]),
    st.sampled_from(["{}", "x:{}", "env:{}", "cmd:echo {}", "keyring:{}/x", "file:{}", "'{}", "'cmd:a {}'", "--{}"]),
    st.lists(_pieces, max_size=6),
)
def test_a_source_never_appears_whatever_stands_around_it(
    before: list[str], option: str, shape: str, after: list[str]
) -> None:
    text = " ".join([*before, option, shape.format(MARK), *after])
    if any(piece in ("'", '"', "\\", "-L", "-R", "-D", "--", "--close") or piece in FLAGS for piece in before):
        return  # then the word may be something else than this option's value
    try:
        read(text)
    except SpecError as error:
        assert_silent(error)


@given(st.text())
def test_split_agrees_with_the_shell_where_there_is_no_comment(text: str) -> None:
    try:
        expected = shlex.split(text)
    except ValueError:
        expected = None
    if "#" in text:
        return
    if expected is None:
        problem(lambda: split(text))
    else:
        assert split(text) == expected


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a b # c 'd", ["a", "b"]),
        ("# c", []),
        ("a#b", ["a#b"]),
        ("'a # b' c", ["a # b", "c"]),
        ('"a \\" # b" c # d', ['a " # b', "c"]),
        ("a \\# b", ["a", "#", "b"]),
        ("cmd:pass#1 # x", ["cmd:pass#1"]),
    ],
)
def test_only_a_word_that_begins_with_a_hash_begins_a_comment(text: str, words: list[str]) -> None:
    assert split(text) == words


BODY = """
# databases
sales=postgresql://ana@pg.vpc/sales --password env:SALES   # the big one

cache=redis://redis.vpc/0 --hold 5
-D 1080 --as out --quiet
-R 8080:localhost:3000
"""


def test_a_cells_lines_are_specs_with_their_own_options() -> None:
    head = read("ana@bastion --hold 7 --env --passphrase env:KEY --as group --password env:ALL")
    sales, cache, out, api = parse_list(head, BODY)
    assert {line.target for line in (sales, cache, out, api)} == {head.target}
    assert [line.forwards[0].kind for line in (sales, cache, out, api)] == [
        *[Kind.LOCAL] * 2,
        Kind.DYNAMIC,
        Kind.REMOTE,
    ]
    assert [line.forwards[0].name for line in (sales, cache, out, api)] == ["sales", "cache", "", ""]
    assert [line.service.name for line in (sales, cache, out, api)] == ["", "", "out", ""]
    assert [line.tunnel.hold for line in (sales, cache, out, api)] == [7, 5, 7, 7]
    assert all(line.service.env for line in (sales, cache, out, api))
    assert (out.service.quiet, api.service.quiet) == (True, False)
    assert sales.sources[sales.service.password].value == "SALES"
    assert cache.sources[cache.service.password].value == "ALL"
    for line in (sales, api):
        assert isinstance(line.target, SshTarget)
        assert line.sources[line.target.passphrase].value == "KEY"


@pytest.mark.parametrize(
    ("body", "hop", "reason"),
    [
        ("5432\n\n5432:x\n", "line 4", "far port"),
        ("5432 --password " + MARK, "line 2", "not the secret itself"),
        ("# c\n5432 5433", "line 3", "one SPEC"),
        ("--env", "line 2", "one SPEC"),
        ("5432 -p 22", "line 2", "-p belongs to TARGET"),
        ("5432 --close x", "line 2", "does not go in a list"),
        ("5432 --help", "line 2", "stands alone"),
        ("5432\n'", "line 3", "not closed"),
        ("a=5432\nb=1\na=5433", "line 4", "a is given twice"),
        ("a=5432\n5433 --as a", "line 3", "a is given twice"),
        ("a=5432 --as b", "line 2", "name the same tunnel"),
        ("5432 --nonsense", "line 2", "no option --nonsense"),
        ("5432\n/tmp/a.sock:pg:1 --allowed-ips ::1", "line 3", "does not go with '/tmp/a.sock'"),
        ("", "", "no SPEC"),
        ("# only this\n\n", "", "no SPEC"),
    ],
)
def test_an_error_in_a_list_names_the_cells_line(body: str, hop: str, reason: str) -> None:
    error = problem(lambda: parse_list(read("bastion"), body))
    assert (error.hop, error.code) == (hop, "ESPEC")
    assert reason in error.message
    assert_silent(error)


@pytest.mark.parametrize("head", ["", "--close pg", f"bastion {PG}", "--help"])
def test_a_list_needs_a_target_alone_in_its_first_line(head: str) -> None:
    assert "%%forward" in problem(lambda: parse_list(read(head), "5432")).hint


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("90", 90), ("90s", 90), ("10m", 600), ("1h30m", 5400), ("2d", 172800), ("1.5", 1.5), ("0", 0)],
)
def test_durations_are_read_as_written(text: str, seconds: float) -> None:
    assert duration(text, "--ttl") == seconds


@pytest.mark.parametrize("text", ["", "m", "10x", "1m1h", "-5", "1e3", "ten", "5 m"])
def test_what_is_no_duration_is_refused_with_the_forms(text: str) -> None:
    with pytest.raises(SpecError, match=r"90s, 10m or 1h30m"):
        duration(text, "--ttl")


# %k8s_forward


def read_cluster(text: str, head: bool = False) -> Line:
    return parse_line(split(text), dialect=KUBERNETES, head=head)


def test_resource_and_ports_stand_in_the_place_of_target_and_specs() -> None:
    line = read_cluster(
        "deploy/api -n prod 9229 --context c web=8080:http --kubeconfig k -J ana@jump,b --as debug --hold 3"
    )
    assert line.target == ClusterTarget("prod", "c", "k", (SshTarget("jump", "ana"), SshTarget("b")))
    assert line.forwards == tuple(parse_port(word, Resource.of("deploy/api")) for word in ("9229", "web=8080:http"))
    assert (line.service.name, line.tunnel.hold) == ("debug", 3.0)
    assert pickle.loads(pickle.dumps(line)) == line


@pytest.mark.parametrize("text", ["-l app=api 80", "80 -l app=api", "-lapp=api 80", "--selector=app=api -- 80"])
def test_dash_l_is_the_selector_here_and_not_the_login_name(text: str) -> None:
    assert read_cluster(text).forwards == (parse_port("80", Resource.of("-l app=api")),)


def test_every_option_of_a_cluster_is_a_flag_and_those_of_ssh_are_not() -> None:
    own = {name.name for kind in (ClusterTarget, TunnelOptions, Service) for name in fields(kind)}
    elsewhere = {"files", "socks_user", "socks_password", "set_proxy_env"}
    assert {flag.field for flag in CLUSTER_FLAGS.values()} == own - elsewhere
    text = read_cluster("--help").text
    assert text.startswith("%k8s_forward [OPTIONS] RESOURCE PORT")
    assert all(spelling in text for spelling in CLUSTER_FLAGS)
    assert all(word not in text for word in ("TARGET", "--socks", "--username", "--host-key"))
    assert max(map(len, text.splitlines())) <= 110


@pytest.mark.parametrize("spelling", sorted(set(FLAGS) - set(CLUSTER_FLAGS) - {"-l"} | {"-L", "-R", "-D", "-N"}))
def test_option_of_ssh_on_a_clusters_line_says_whose_it_is(spelling: str) -> None:
    error = problem(lambda: read_cluster(f"svc/api 80 {spelling} x"))
    assert error.message == f"{spelling} belongs to %forward"


@pytest.mark.parametrize("spelling", ["-n", "--namespace", "--context", "--kubeconfig", "--selector"])
def test_option_of_a_cluster_on_an_ssh_line_says_whose_it_is(spelling: str) -> None:
    assert problem(lambda: read(f"bastion {PG} {spelling} x")).message == f"{spelling} belongs to %k8s_forward"


@pytest.mark.parametrize(
    ("text", "reason", "hint"),
    [
        ("svc/api", "svc/api: a PORT is missing", "%k8s_forward svc/api 5432"),
        ("-l app=api", "-l app=api: a PORT is missing", "%k8s_forward -l app=api 5432"),
        ("5432 svc/api", "'svc/api' stands where a PORT", "RESOURCE comes first"),
        ("-l app=api svc/api 80", "both say where to", "Leave one"),
        ("-l a=b -l c=d 80", "-l is given twice", "a comma means and"),
        ("svc/api 1:2:3", "'1:2:3' is no PORT", "15432:5432"),
        ("svc/api a=80 a=81", "a is given twice", "each PORT"),
        ("svc/api a=80 --as b", "name the same tunnel", "Leave one"),
        ("svc/api 80 --nmespace x", "no option --nmespace", "--namespace? %k8s_forward --help"),
        ("svc/api 80 -n", "-n needs a value", "-n NAME"),
        ("--close", "needs the name", "%k8s_forward alone"),
        ("--close pg -n x", "--namespace and --close", "lines of their own"),
        (f"svc/api 80 --password secret:{MARK}", "a key of it", "--password secret:NAME/KEY"),
        (f"svc/api 80 --password {MARK}", "not the secret itself", "secret:NAME/KEY"),
        (f"svc/api --password cmd:pass {MARK}:x", "not repeated here", "Quote a SOURCE"),
    ],
)
def test_every_bad_line_of_a_cluster_is_one_line_with_its_fix(text: str, reason: str, hint: str) -> None:
    error = problem(lambda: read_cluster(text))
    assert reason in error.message
    assert hint in error.hint
    assert_silent(error)


def test_actions_act_as_with_forward() -> None:
    for text in ("", "--close pg", "--close-all", "--reconnect pg"):
        assert read_cluster(text) == read(text)


def test_a_kubernetes_secret_is_a_source_where_there_is_a_cluster() -> None:
    line = read_cluster("svc/pg 5432 --password secret:pg-auth/password")
    assert line.sources[line.service.password].secret_entry == ("pg-auth", "password")
    for option in ("--password", "--ssh-password", "--passphrase"):
        error = problem(lambda option=option: read(f"bastion {PG} {option} secret:pg-auth/password"))  # type: ignore[misc]
        assert f"{option} secret: is read from a cluster" in error.message
        assert "pg-auth" not in str(error)


def test_targets_made_in_python_stand_for_the_cluster_and_its_proxy() -> None:
    prod, bastion = ClusterTarget(context="prod"), SshTarget("b", "ana", proxy=(SshTarget("jump"),))
    made: dict[str, SshTarget | ClusterTarget] = {"a.invalid": prod, "b.invalid": bastion}
    assert parse_line(["a.invalid", "svc/api", "80"], made, KUBERNETES).target is prod
    behind = parse_line(["svc/api", "80", "-J", "b.invalid"], made, KUBERNETES).target
    assert behind == ClusterTarget(proxy=(SshTarget("jump"), SshTarget("b", "ana")))
    assert "xf.k8s" in problem(lambda: parse_line(["a.invalid", "svc/api", "80", "-n", "x"], made, KUBERNETES)).hint
    assert "--proxy" in problem(lambda: parse_line(["b.invalid", "svc/api", "80"], made, KUBERNETES)).hint
    assert "%k8s_forward" in problem(lambda: parse_line(["a.invalid", "80"], made)).hint


CLUSTER_BODY = """
svc/postgres 5432 --as pg --dsn postgresql://ana@/sales   # the big one

deploy/api web=8080:http 9229 --hold 5
-l app=cache 6379
"""


@pytest.mark.parametrize("head", ["", "-n prod --hold 7 --as group"])
def test_a_cells_lines_are_resources_with_their_ports_and_options(head: str) -> None:
    first = read_cluster(head, head=True)
    pg, api, cache = parse_list(first, CLUSTER_BODY, KUBERNETES)
    assert {line.target for line in (pg, api, cache)} == {ClusterTarget("prod" if head else "")}
    assert [str(line.forwards[0].connect) for line in (pg, api, cache)] == [
        *("svc/postgres:5432", "deploy/api:http", "-l app=cache:6379"),
    ]
    assert len(api.forwards) == 2
    assert [line.service.name for line in (pg, api, cache)] == ["pg", "", ""]
    assert [line.tunnel.hold for line in (pg, api, cache)] == ([7, 5, 7] if head else [30, 5, 30])


@pytest.mark.parametrize(
    ("body", "hop", "reason"),
    [
        ("svc/api", "line 2", "a PORT is missing"),
        ("svc/api 80\n\nsvc/api 1:2:3", "line 4", "no PORT"),
        ("svc/api 80 -n x", "line 2", "-n belongs to the cluster"),
        ("svc/api 80 -i x", "line 2", "-i belongs to %forward"),
        ("svc/api 80 81 --as x", "line 2", "--as names one tunnel"),
        ("svc/api a=80\nsvc/b a=80", "line 3", "a is given twice"),
        ("--env", "line 2", "RESOURCE PORT is expected"),
        ("", "", "no RESOURCE PORT"),
    ],
)
def test_an_error_in_a_clusters_list_names_the_cells_line(body: str, hop: str, reason: str) -> None:
    error = problem(lambda: parse_list(read_cluster("-n prod", head=True), body, KUBERNETES))
    assert (error.hop, error.code) == (hop, "ESPEC")
    assert reason in error.message


@pytest.mark.parametrize("head", ["svc/api 80", "--close pg", "--help"])
def test_a_clusters_list_follows_options_alone(head: str) -> None:
    assert "%%k8s_forward" in problem(lambda: parse_list(read_cluster(head, head=True), "svc/a 80", KUBERNETES)).hint


def test_default_names_of_several_ports_tell_them_apart() -> None:
    def names(*lines: Line) -> list[str]:
        return [wanted.explicit or wanted.default for wanted in wanted_of(lines)]

    assert names(read_cluster("svc/api 80")) == ["api"]
    assert names(read_cluster("svc/api 9229 http web=8080:http")) == ["api_9229", "api_http", "web"]
    assert names(read_cluster("svc/api 9229 web=8080:http")) == ["api", "web"]
    body = "svc/api 80\nsvc/api 90\nsvc/pg 5432"
    assert names(*parse_list(read_cluster("", head=True), body, KUBERNETES)) == ["api_80", "api_90", "pg"]


@settings(deadline=None)
@given(
    st.lists(st.one_of(_pieces, st.sampled_from([*CLUSTER_FLAGS, "svc/api", "80"]), st.text(max_size=5)), max_size=12)
)
def test_no_text_on_a_clusters_line_raises_anything_but_spec_error(pieces: list[str]) -> None:
    text, shown = " ".join(pieces), ""
    try:
        assert isinstance(read_cluster(text), Line)
        parse_list(Line(Action.OPEN, target=ClusterTarget()), text, KUBERNETES)
    except SpecError as error:
        shown = str(error)
    assert len(shown.splitlines()) <= 1
