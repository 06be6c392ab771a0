"""SOURCEs: what each gives, what each says when it has nothing, and that nothing of a secret is ever said."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from xec_forward.client import sources
from xec_forward.client.sources import PromptNeeded, Sources, as_source, resolve
from xec_forward.errors import ConfigError, ForwardError, SpecError
from xec_forward.source import Source, SourceKind

SECRET = "S3CRET ü"
posix = pytest.mark.skipif(os.name != "posix", reason="POSIX")


def _fails(source: sources.Resolvable, kind: type[ForwardError] = ConfigError) -> str:
    """The error's text, once it is sure that no form of the error repeats the secret."""
    with pytest.raises(kind) as caught:
        resolve(source)
    assert "S3CRET" not in f"{caught.value} {caught.value!r} {caught.value.hint}"
    return str(caught.value)


# env


def test_env_gives_the_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XF_TEST_PASSWORD", SECRET)
    assert resolve("env:XF_TEST_PASSWORD") == SECRET
    assert resolve(Source(SourceKind.ENV, "XF_TEST_PASSWORD")) == SECRET


def test_env_that_is_not_set_or_empty_names_the_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("XF_TEST_PASSWORD", raising=False)
    assert "XF_TEST_PASSWORD is not set" in _fails("env:XF_TEST_PASSWORD")
    monkeypatch.setenv("XF_TEST_PASSWORD", "")
    assert "XF_TEST_PASSWORD is empty" in _fails("env:XF_TEST_PASSWORD")


@posix
def test_env_that_is_no_text_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XF_TEST_PASSWORD", os.fsdecode(b"S3CRET\xff"))
    assert "not UTF-8" in _fails("env:XF_TEST_PASSWORD")


# cmd


def _python(code: str) -> str:
    return f'cmd:"{sys.executable}" -c "{code}"'


def test_cmd_gives_the_first_line_without_its_newline() -> None:
    assert resolve(_python("print('  two words '); print('second')")) == "  two words "


def test_cmd_is_a_shell_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XF_TEST_PASSWORD", "inherited")
    assert resolve("cmd:echo $XF_TEST_PASSWORD | tr a-z A-Z") == "INHERITED"


def test_cmd_reads_nothing_from_us() -> None:
    assert resolve(_python("import sys; print(repr(sys.stdin.read()))")) == "''"


def test_cmd_that_fails_shows_the_last_line_of_stderr_and_never_stdout() -> None:
    said = _fails("cmd:echo S3CRET; echo first >&2; echo 'sign in first' >&2; exit 3")
    assert "ended with code 3: sign in first. Try it in a terminal" in said
    assert "ended with code 4. Try" in _fails("cmd:echo S3CRET; echo 'bad S3CRET' >&2; exit 4")


def test_cmd_that_prints_nothing_says_so() -> None:
    assert "empty first line" in _fails("cmd:true")
    assert "empty first line" in _fails("cmd:echo; echo S3CRET")


def test_cmd_that_prints_no_text_says_so() -> None:
    assert "not UTF-8" in _fails("cmd:printf 'S3CRET\\377'")


def test_cmd_that_prints_without_end_is_kept_within_bounds() -> None:
    assert resolve("cmd:echo first; head -c 5000000 /dev/zero") == "first"


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sources, "COMMAND_SECONDS", 0.5)


@posix
@pytest.mark.usefixtures("impatient")
def test_cmd_that_hangs_is_killed_with_its_whole_process_group(tmp_path: Path) -> None:
    said = _fails(f"cmd:echo S3CRET; sleep 300 & echo $! > {tmp_path}/child; wait")
    assert "no answer within 0.5 s" in said
    child = int((tmp_path / "child").read_text())
    deadline = time.monotonic() + 5
    while _lives(child):
        assert time.monotonic() < deadline, "the child of the command lives on"
        time.sleep(0.01)


def _lives(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    try:
        # Killed, and not yet reaped by whoever inherited it.
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return sys.platform != "linux"


@posix
def test_cmd_that_leaves_a_daemon_behind_answers_at_once(tmp_path: Path) -> None:
    started = time.monotonic()
    try:
        assert resolve(f"cmd:sleep 60 & echo $! > {tmp_path}/child; echo answer") == "answer"
        assert time.monotonic() - started < 20
    finally:
        os.kill(int((tmp_path / "child").read_text()), signal.SIGKILL)


# file


@posix
def test_file_gives_its_first_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "p w"
    path.write_text(f"{SECRET}\nsecond\n")
    for mode in (0o600, 0o400):
        path.chmod(mode)
        assert resolve(f"file:{path}") == SECRET
    monkeypatch.setenv("HOME", str(tmp_path))
    assert resolve("file:~/p w") == SECRET


@posix
@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620, 0o601])
def test_file_that_others_can_use_is_refused_with_the_fix(tmp_path: Path, mode: int) -> None:
    path = tmp_path / "S3CRET"
    path.write_text("S3CRET")
    path.chmod(mode)
    assert "chmod 600" in _fails(f"file:{path}")


def test_file_that_is_missing_or_a_folder_or_empty_says_so(tmp_path: Path) -> None:
    assert "no such file" in _fails(f"file:{tmp_path}/S3CRET")
    assert "directory" in _fails(f"file:{tmp_path}")
    (tmp_path / "empty").touch(0o600)
    assert "empty first line" in _fails(f"file:{tmp_path}/empty")
    (tmp_path / "binary").touch(0o600)
    (tmp_path / "binary").write_bytes(b"S3CRET\xff")
    assert "not UTF-8" in _fails(f"file:{tmp_path}/binary")


# keyring


@pytest.fixture
def own_keyring() -> Iterator[dict[tuple[str, str], str]]:
    """The package keyring with a backend of its own kind that lives in memory: its documented way to add one."""
    keyring = pytest.importorskip("keyring", reason="keyring")
    entries: dict[tuple[str, str], str] = {}

    class InMemory(keyring.backend.KeyringBackend):  # type: ignore[name-defined,misc]
        priority = 1

        def get_password(self, service: str, username: str) -> str | None:
            if service == "locked":
                raise keyring.errors.KeyringLocked(f"S3CRET {service}")
            return entries.get((service, username))

        def set_password(self, service: str, username: str, password: str) -> None:
            entries[service, username] = password

    before = keyring.get_keyring()
    keyring.set_keyring(InMemory())
    yield entries
    keyring.set_keyring(before)


def test_keyring_gives_the_entry_and_its_service_may_hold_slashes(own_keyring: dict[tuple[str, str], str]) -> None:
    own_keyring["https://pg.vpc/sales", "ana"] = SECRET
    assert resolve("keyring:https://pg.vpc/sales/ana") == SECRET


def test_keyring_without_the_entry_or_locked_says_what_to_do(own_keyring: dict[tuple[str, str], str]) -> None:
    assert "keyring set SERVICE USER" in _fails("keyring:sales/ana")
    assert "KeyringLocked" in _fails("keyring:locked/ana")


def test_a_missing_keyring_package_gives_the_line_that_installs_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "keyring", None)
    assert "%pip install 'xec_forward[keyring]'" in _fails("keyring:sales/ana")


def test_a_system_without_a_keyring_names_other_sources() -> None:
    keyring = pytest.importorskip("keyring", reason="keyring")
    from keyring.backends.fail import Keyring

    before = keyring.get_keyring()
    keyring.set_keyring(Keyring())
    try:
        assert "no keyring" in _fails("keyring:sales/ana")
    finally:
        keyring.set_keyring(before)


# prompt, callables, literals


def test_prompt_is_left_to_whoever_waits() -> None:
    with pytest.raises(PromptNeeded):
        resolve("prompt")


def test_a_callable_is_asked_each_time() -> None:
    answers = iter(["one", "two"])
    registry = Sources()
    reference = registry.add(lambda: next(answers))
    assert [registry.resolve(reference), registry.resolve(reference)] == ["one", "two"]


def test_a_callable_that_fails_or_returns_no_text_tells_only_that() -> None:
    def fails() -> str:
        raise KeyError("S3CRET")

    assert "raised KeyError" in _fails(fails)
    assert "returned bytes, not str" in _fails(lambda: b"S3CRET")  # type: ignore[arg-type,return-value]


def test_a_text_is_a_source_where_it_has_the_form_of_one_else_the_secret() -> None:
    assert as_source("env:PGPASSWORD") == Source(SourceKind.ENV, "PGPASSWORD")
    assert as_source("prompt") == Source(SourceKind.PROMPT)
    for secret in ("hunter2", "a:b", "ENV:x", "prompt ", "https://x", "secret"):
        assert as_source(secret) == secret
        assert resolve(secret) == secret
    with pytest.raises(SpecError):
        as_source("env:two words")


# the registry


def test_a_reference_tells_nothing_and_is_the_same_for_the_same_source(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XF_TEST_PASSWORD", SECRET)
    registry = Sources()
    reference = registry.add("env:XF_TEST_PASSWORD")
    assert reference == Sources().add(Source(SourceKind.ENV, "XF_TEST_PASSWORD"))
    assert reference.startswith("env:")
    assert "XF_TEST" not in reference
    assert registry.resolve(reference) == SECRET
    assert registry.kind(reference) == "env"


def test_literals_and_callables_get_a_number() -> None:
    registry = Sources()
    first = registry.add("S3CRET")
    second = registry.add(lambda: "x")
    assert (first, second) == ("call:1", "call:2")
    assert registry.add("S3CRET") == first
    assert registry.add("other") == "call:3"
    assert registry.resolve(first) == "S3CRET"
    assert "S3CRET" not in repr(registry) + str(registry)
    assert "S3CRET" not in repr(vars(registry).get("_numbers"))


def test_nothing_given_has_no_reference() -> None:
    assert Sources().add(None) == ""
    assert Sources().add("") == ""


def test_an_unknown_reference_is_an_error() -> None:
    with pytest.raises(ConfigError):
        Sources().resolve("call:9")


def test_many_threads_may_add_and_resolve_at_once() -> None:
    registry = Sources()
    wrong: list[str] = []

    def work(number: int) -> None:
        for turn in range(50):
            reference = registry.add(f"secret {number} {turn}")
            if registry.resolve(reference) != f"secret {number} {turn}":
                wrong.append(reference)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert not wrong
    assert repr(registry) == "Sources(400)"
