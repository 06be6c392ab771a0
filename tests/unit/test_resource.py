"""RESOURCE and PORT: every form of docs/surface.md and kubectl, and a good error for each wrong one."""

from __future__ import annotations

import keyword
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from xec_forward.dsn import make, template_for
from xec_forward.errors import SpecError
from xec_forward.services import scheme_for_name
from xec_forward.spec import (
    Endpoint,
    Forward,
    Kind,
    Resource,
    ResourceKind,
    default_name,
    parse_forward,
    parse_port,
    parse_resource,
    parse_selector,
)

MARK = "hunter2Zq"
API = Resource(ResourceKind.SERVICE, "api")
HERE, ANY = Endpoint(), Endpoint(port=0)


def problem(call: Callable[[], object]) -> SpecError:
    with pytest.raises(SpecError) as caught:
        call()
    assert len(str(caught.value).splitlines()) == 1
    return caught.value


@pytest.mark.parametrize(
    ("word", "written"),
    [
        ("web-0", "pod/web-0"),
        ("pod/web-0", "pod/web-0"),
        ("po/a.b.c", "pod/a.b.c"),
        ("svc/postgres", "svc/postgres"),
        ("Services/postgres", "svc/postgres"),
        ("deployment/api", "deploy/api"),
        ("deployments.apps/api", "deploy/api"),
        ("statefulset/db", "sts/db"),
        ("replicasets/x", "rs/x"),
        ("daemonset/agent", "ds/agent"),
        ("jobs.batch/once", "job/once"),
    ],
)
def test_resources_are_read_by_all_of_kubectls_names(word: str, written: str) -> None:
    resource = parse_resource(word)
    assert str(resource) == written
    assert Resource.of(written) == resource
    assert Resource.stands_in(written)


@pytest.mark.parametrize("host", ["pg.vpc", "localhost", "10.0.0.1", "::1", ""])
def test_host_is_no_resource(host: str) -> None:
    assert not Resource.stands_in(host)


@pytest.mark.parametrize(
    ("word", "reason", "hint"),
    [
        ("depoy/api", "no kind 'depoy'", "Write deploy/api"),
        ("x/y", "no kind 'x'", "the kinds are pod, svc, deploy, sts, rs, ds, job"),
        ("svc/", "a name is missing", "svc/postgres"),
        ("pod", "a name is missing", "Write pod/NAME; a pod that is named so is pod/pod"),
        ("svc/Postgres", "no name", "Write svc/postgres: such names are in lower case"),
        ("svc/postgres:5432", "no name", "Write svc/postgres 5432"),
        ("pg=svc/postgres", "no kind", "Write svc/postgres pg=5432"),
        ("web=svc/api:http", "no kind", "Write svc/api web=http"),
        ("app=api", "no name", "-l app=api"),
        (f"ana:{MARK}/x@h", "stands where a RESOURCE is expected", "svc/postgres"),
        (f"postgresql://ana:{MARK}@h/s", "stands where a RESOURCE is expected", "--dsn URL"),
    ],
)
def test_malformed_resource_is_refused_with_the_nearest_form(word: str, reason: str, hint: str) -> None:
    error = problem(lambda: parse_resource(word))
    assert reason in error.message
    assert hint in error.hint
    assert MARK not in str(error)


@pytest.mark.parametrize(
    ("text", "label"),
    [
        ("app=api", "api"),
        ("app==api", "api"),
        ("app.kubernetes.io/name=my-api,tier!=cache", "my-api"),
        ("example.com/gpu", "gpu"),
        ("app in (api, web)", "app"),
    ],
)
def test_selector_is_kept_as_written_and_gives_a_name(text: str, label: str) -> None:
    selector = parse_selector(text)
    assert str(selector) == f"-l {text}"
    assert Resource.of(str(selector)) == selector
    assert selector.label == label


@pytest.mark.parametrize("text", ["", "  ", "app=api;rm", "app='x'"])
def test_what_no_selector_holds_is_refused(text: str) -> None:
    assert "-l app=api" in problem(lambda: parse_selector(text)).hint


PORTS = [
    ("5432", HERE, Endpoint("svc/api", 5432), ""),
    ("15432:5432", Endpoint(port=15432), Endpoint("svc/api", 5432), ""),
    (":5432", ANY, Endpoint("svc/api", 5432), ""),
    ("0:5432", ANY, Endpoint("svc/api", 5432), ""),
    ("8080:http", Endpoint(port=8080), Endpoint("svc/api", port_name="http"), ""),
    ("http", ANY, Endpoint("svc/api", port_name="http"), ""),
    (":http", ANY, Endpoint("svc/api", port_name="http"), ""),
    ("web=8080:http", Endpoint(port=8080), Endpoint("svc/api", port_name="http"), "web"),
    ("pg=5432", HERE, Endpoint("svc/api", 5432), "pg"),
    ("p2p-metrics2", ANY, Endpoint("svc/api", port_name="p2p-metrics2"), ""),
]


@pytest.mark.parametrize(("word", "listen", "connect", "name"), PORTS)
def test_ports_are_read_as_kubectl_writes_them(word: str, listen: Endpoint, connect: Endpoint, name: str) -> None:
    assert parse_port(word, API) == Forward(Kind.LOCAL, listen, connect, name)


@pytest.mark.parametrize(
    ("word", "reason", "hint"),
    [
        ("1:2:3", "no PORT", "Write 5432, 15432:5432, :5432 or 8080:http"),
        ("127.0.0.1:8080:80", "no PORT", "Write 8080:80 --local-interface 127.0.0.1"),
        ("5432:pg.vpc:5432", "no PORT", "Write 5432:5432; where it leads to, RESOURCE says"),
        ("http:8080", "'http' stands where the local port", "Write 8080:http"),
        ("65536", "from 1 to 65535", "5432"),
        ("0", "from 1 to 65535", "5432"),
        ("99999:1", "from 0 to 65535", "5432"),
        ("HTTP", "neither a port's number nor its name", "Write http"),
        ("12-3", "neither a port's number nor its name", "5432"),
        ("-1", "neither a port's number nor its name", "5432"),
        ("svc/api", "stands where a PORT is expected", "RESOURCE comes first: svc/api 5432"),
        ("5432/tcp", "no PORT", "5432"),
        ("web:", "no PORT", "5432"),
        ("", "no PORT", "5432"),
        ("80 81", "no PORT", "5432"),
        ("=80", "the name in front of the = is missing", ""),
        ("class=80", "a word of Python", "class_"),
        (f"sales=postgresql://ana:{MARK}@/sales", "a URL stands where a PORT", "--dsn URL"),
        (f"ana:{MARK}@80", "no PORT", "5432"),
    ],
)
def test_malformed_port_is_refused_with_its_fix(word: str, reason: str, hint: str) -> None:
    error = problem(lambda: parse_port(word, API))
    assert reason in error.message
    assert hint in error.hint
    assert MARK not in str(error)


@given(st.text(max_size=20))
def test_any_text_is_a_word_or_one_spec_error(text: str) -> None:
    for read in (parse_resource, parse_selector, lambda word: parse_port(word, API)):
        shown = ""
        try:
            read(text)
        except SpecError as error:
            shown = str(error)
        assert len(shown.splitlines()) <= 1


@given(st.sampled_from([word for word, *_ in PORTS]), st.booleans())
def test_default_name_is_always_an_identifier(word: str, several: bool) -> None:
    for resource in map(Resource.of, ("svc/my-db", "pod/class", "pod/5432", "-l app=print", "deploy/a.b")):
        name = default_name(parse_port(word, resource), "prod", several=several)
        assert name.isidentifier()
        assert not keyword.iskeyword(name)


def test_default_name_is_the_resources_and_of_several_ports_has_the_port() -> None:
    number, named = parse_port("9229", API), parse_port("8080:http", API)
    assert [default_name(each, "prod") for each in (number, named)] == ["api", "api"]
    assert [default_name(each, "prod", several=True) for each in (number, named)] == ["api_9229", "api_http"]
    assert default_name(parse_port("web=80", API), "prod", several=True) == "web"
    assert default_name(parse_forward("pg.vpc:5432"), "bastion", several=True) == "pg"


@pytest.mark.parametrize(
    ("name", "scheme"),
    [
        *(("http", "http"), ("https", "https"), ("postgres", "postgresql"), ("postgresql", "postgresql")),
        *(("redis", "redis"), ("mysql", "mysql"), ("mongodb", "mongodb"), ("tcp-postgresql", "postgresql")),
        *(("http-web", "http"), ("metrics", ""), ("debug", ""), ("ssh", "")),
    ],
)
def test_ports_name_tells_the_scheme_where_it_is_a_protocols(name: str, scheme: str) -> None:
    assert scheme_for_name(name) == scheme
    assert template_for(parse_port(name, API)) == (f"{scheme}://" if scheme else "")


def test_scheme_is_by_number_by_name_or_as_dsn_says() -> None:
    assert template_for(parse_port("15432:5432", API)) == "postgresql://"
    assert template_for(parse_port("8080:http", API), "redis://") == "redis://"
    assert template_for(parse_port("9229", API)) == ""


def test_resource_is_no_name_for_a_certificate() -> None:
    template = "postgresql://ana@/sales?sslmode=verify-full"
    plain = make(template, host="127.0.0.1", port=5432, far_host="svc/postgres").reveal()
    assert plain == "postgresql://ana@127.0.0.1:5432/sales?sslmode=verify-full"
    named = make(template.replace("@/", "@pg.prod.svc/"), host="127.0.0.1", port=5432, far_host="svc/postgres").reveal()
    assert named.startswith("postgresql://ana@pg.prod.svc:5432/sales?hostaddr=127.0.0.1")
