"""Exec plugins: the program that a kubeconfig names, asked for a credential (client.authentication.k8s.io).

The plugin runs under the reaper, with a deadline, on /dev/null as its standard input: nobody can answer it. Of what it
says on stderr, which may be requests with their tokens where somebody has turned on its debugging, the last line alone
goes into an error, and nothing to the log; its standard output is the credential, and goes nowhere else. Its
environment may hold secrets, so it travels through a pipe and not in an argument of the shell.
"""

from __future__ import annotations

import asyncio
import base64
import json
import os
import re
import shlex
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any, NoReturn, cast

from ....errors import AuthenticationError, ConfigError, DeadlineError, UnreachableError
from ...pipes import connect_reading, connect_writing
from ...program import OUTPUT_GRACE, Ending, Program
from .config import Context, shown

# Seconds a plugin may take to renew a credential, for which nobody waits whose patience is known.
DEADLINE = 25.0
# Seconds, or the part, of an opening's patience that it leaves: so that its last words still reach the user. All else
# is its own, for a login in a browser may take a person a while.
_LEFT, _LEFT_PART = 2.0, 0.1

_GROUP = "client.authentication.k8s.io"
_VERSIONS = (f"{_GROUP}/v1", f"{_GROUP}/v1beta1")
_EXTENSION = f"{_GROUP}/exec"
_LARGEST = 1 << 20  # bytes of an answer
_NAME = re.compile(r"[A-Za-z_]\w*", re.ASCII)
# What a plugin says when it is the network that fails it: worth another try, unlike a login that has ended.
_NETWORK = re.compile(
    r"could not connect|connection (refused|reset|timed out)|timed? ?out|unreachable|no such host|resol(ve|ution)|"
    r"dial tcp|network|temporary failure",
    re.IGNORECASE,
)
# What is, or may be, a token in a plugin's words: behind its scheme, a JWT, an EKS token, a word that was cut, a long
# one that is no part of a path or an address.
_SECRET = re.compile(
    r"\b(?:bearer|basic)\s+[^\s:'\"]+|\beyJ[\w.-]{16,}|\bk8s-aws-v1\.[\w-]+|\S*…\S*"
    r"|(?<![\w/.:%?&=-])[\w+=-]{40,}",
    re.IGNORECASE,
)
_LOGINS = {
    "aws": "aws sso login",
    "aws-iam-authenticator": "aws sso login",
    "az": "az login",
    "doctl": "doctl auth init",
    "gke-gcloud-auth-plugin": "gcloud auth login",
    "kubelogin": "az login",
    "oci": "oci session authenticate",
    "tsh": "tsh login",
}


@dataclass(frozen=True, slots=True, repr=False)
class Credential:
    """What a plugin answered.

    Attributes:
        token: a bearer token, or "".
        certificate, key: a client certificate in PEM, or "".
        expires: when it ends, in seconds of `time.time`; None where it was not said.
    """

    token: str
    certificate: str
    key: str
    expires: float | None


async def ask(context: Context, patience: float = float("inf")) -> Credential:
    """Run the plugin of the context's user. Cancelling it ends the plugin.

    Args:
        patience: seconds that whoever waits for it has; infinity: DEADLINE.

    Raises:
        ConfigError: the entry is malformed, or the program is not installed.
        AuthenticationError: it ended without a credential.
        DeadlineError: it did not end in time.
        UnreachableError: it says that the network fails it.
        EngineError: no process could be started.
    """
    entry = context.user["exec"]
    command, version = _checked(entry, context)
    name = os.path.basename(command)
    program = await asyncio.to_thread(shutil.which, command)
    if program is None:
        hint = " ".join(str(entry.get("installHint") or "").split())[:300]
        where = "at that path" if "/" in command else "on the PATH that the kernel was started with"
        hint = hint or f"Install it {where}: {shown(context.file)} names it for the user {context.user_name}"
        raise ConfigError(f"the plugin {shown(command)} is not there", hop=context.name, hint=hint)
    information = await asyncio.to_thread(_information, entry, version, context)
    script = _script(program, entry, information, context)
    ending, output = await _run(script, name, context, patience)
    if ending.status != 0:
        _failed(name, ending, context)
    return _credential(output, name, version, ending, context)


def _checked(entry: Mapping[str, Any], context: Context) -> tuple[str, str]:
    """The command and the API version of an entry."""
    command, version = entry.get("command"), entry.get("apiVersion")
    if not isinstance(command, str) or not command:
        raise _malformed("names no command", context)
    if version not in _VERSIONS:
        raise _malformed(f"wants {version}; there are {' and '.join(_VERSIONS)}", context)
    if entry.get("interactiveMode") == "Always":
        hint = f"Log in with {os.path.basename(command)} in a terminal, or use another context"
        raise AuthenticationError(
            "its plugin wants to ask questions, which nobody answers", hop=context.name, hint=hint
        )
    return command, str(version)


def _information(entry: Mapping[str, Any], version: str, context: Context) -> str:
    """KUBERNETES_EXEC_INFO. Reads the certificate authority's file."""
    spec: dict[str, Any] = {"interactive": False}
    if entry.get("provideClusterInfo"):
        cluster = context.cluster
        told = {key: cluster[key] for key in ("server", "tls-server-name", "proxy-url") if cluster.get(key)}
        if cluster.get("insecure-skip-tls-verify"):
            told["insecure-skip-tls-verify"] = True
        if cluster.get("certificate-authority-data"):
            told["certificate-authority-data"] = cluster["certificate-authority-data"]
        elif cluster.get("certificate-authority"):
            try:
                with open(cluster["certificate-authority"], "rb") as file:
                    told["certificate-authority-data"] = base64.b64encode(file.read(_LARGEST)).decode()
            except OSError as error:
                path = shown(cluster["certificate-authority"])
                raise ConfigError(f"{path} cannot be read: {error.strerror}", hop=context.name) from error
        for extension in cluster.get("extensions") or ():
            if isinstance(extension, dict) and extension.get("name") == _EXTENSION:
                told["config"] = extension.get("extension")
        spec["cluster"] = told
    return json.dumps({"kind": "ExecCredential", "apiVersion": version, "spec": spec}, default=str)


def _script(program: str, entry: Mapping[str, Any], information: str, context: Context) -> str:
    """The plugin with its environment, as lines for sh."""
    arguments, environment = entry.get("args") or [], entry.get("env") or []
    if not isinstance(arguments, list) or not isinstance(environment, list):
        raise _malformed("has args or env that are no lists", context)
    lines = []
    for item in (*environment, {"name": "KUBERNETES_EXEC_INFO", "value": information}):
        name = item.get("name") if isinstance(item, dict) else None
        if not isinstance(name, str) or not _NAME.fullmatch(name):
            raise _malformed("has an env entry whose name is no variable's", context)
        lines.append(f"export {name}={shlex.quote(str(item.get('value') or ''))}")
    words = " ".join(shlex.quote(str(word)) for word in (program, *arguments))
    script = "\n".join([*lines, f"exec {words} </dev/null", ""])
    if "\0" in script:
        raise _malformed("holds a NUL", context)
    return script


async def _run(script: str, name: str, context: Context, patience: float) -> tuple[Ending, bytes]:
    """Run it to its end; how it ended, and what it wrote to its standard output."""
    waited_for = patience != float("inf")
    deadline = patience - min(_LEFT, patience * _LEFT_PART) if waited_for else DEADLINE
    answer, given = _Answer(), _Script()
    program: Program | None = None
    theirs = []
    try:
        ours, outbound = os.pipe()
        theirs.append(outbound)
        await connect_reading(answer, ours)
        inbound, ours = os.pipe()
        theirs.append(inbound)
        await connect_writing(given, ours)
        given.send(script)
        try:
            async with asyncio.timeout(deadline):
                program = await Program.start('eval "$(cat)"', name, stdin=inbound, stdout=outbound, logged=False)
                while theirs:
                    os.close(theirs.pop())
                await asyncio.wait([program.ended])
        except TimeoutError:
            words = _last_words(program.last_words) if program is not None else ""
            message = f"the plugin {name} did not answer within {round(deadline, 1):g} s{words}"
            hint = _log_in(name) + ("; --timeout S allows more time" if waited_for else "")
            raise DeadlineError(message, hop=context.name, hint=hint) from None
        # A helper that it left behind may hold the pipe for ever.
        await asyncio.wait([answer.ended], timeout=OUTPUT_GRACE)
        ending = program.ended.result()
        return replace(ending, last_words=_without_secrets(ending.last_words)), bytes(answer.received)
    finally:
        for descriptor in theirs:
            os.close(descriptor)
        if program is not None:
            program.end()
        given.abort()
        answer.close()


class _Script(asyncio.BaseProtocol):
    """The lines for the shell, written to its standard input as fast as it takes them."""

    def __init__(self) -> None:
        self._transport: asyncio.WriteTransport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.WriteTransport, transport)

    def send(self, script: str) -> None:
        """All of it, and its end. Not from `connection_made`: asyncio has not finished with the pipe there."""
        if self._transport is not None:
            self._transport.write(script.encode(errors="surrogateescape"))
            self._transport.close()  # once it is written

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None

    def abort(self) -> None:
        """Write no more; idempotent."""
        if self._transport is not None:
            self._transport.abort()


class _Answer(asyncio.Protocol):
    """The plugin's standard output, up to a limit."""

    def __init__(self) -> None:
        self.received = bytearray()
        self.ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._transport: asyncio.BaseTransport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self.received += data
        if len(self.received) > _LARGEST:
            self.close()

    def connection_lost(self, exc: Exception | None) -> None:
        if not self.ended.done():
            self.ended.set_result(None)

    def close(self) -> None:
        """Listen no more; idempotent."""
        if self._transport is not None:
            self._transport.close()


def _credential(output: bytes, name: str, version: str, ending: Ending, context: Context) -> Credential:
    """Read an ExecCredential. Nothing of the output is ever quoted."""
    try:
        answer = json.loads(output)
        status = answer["status"]
        kind, told = answer["kind"], answer["apiVersion"]
    except (ValueError, KeyError, TypeError):
        message = f"the plugin {name} ended without a credential{_last_words(ending.last_words)}"
        raise AuthenticationError(message, hop=context.name, hint=_log_in(name)) from None
    if kind != "ExecCredential" or told != version:
        said = told if told in _VERSIONS else "another form"
        message = f"the plugin {name} answers in {said}, and {version} was asked for"
        hint = f"Set apiVersion in the user's exec entry in {shown(context.file)} to what the plugin speaks"
        raise ConfigError(message, hop=context.name, hint=hint)
    status = status if isinstance(status, dict) else {}
    token, certificate, key = (
        str(status.get(part) or "").strip() for part in ("token", "clientCertificateData", "clientKeyData")
    )
    if not token and not (certificate and key):
        message = f"the plugin {name} gave neither a token nor a certificate with its key"
        raise AuthenticationError(message, hop=context.name, hint=_log_in(name))
    return Credential(token, certificate, key, _seconds(status.get("expirationTimestamp")))


def _seconds(timestamp: object) -> float | None:
    """An RFC 3339 time in seconds; None for what is none."""
    try:
        moment = datetime.fromisoformat(str(timestamp))
    except ValueError:
        return None
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()


def _failed(name: str, ending: Ending, context: Context) -> NoReturn:
    message = f"the plugin {name} {ending}"
    if _NETWORK.search(ending.last_words):
        raise UnreachableError(message, hop=context.name, hint="Is the network, or the VPN, up?")
    raise AuthenticationError(message, hop=context.name, hint=_log_in(name))


def _last_words(words: str) -> str:
    return f"; its last words: {_without_secrets(words)}" if words else ""


def _without_secrets(words: str) -> str:
    """
    >>> _without_secrets("GET https://sts.eu/x: Authorization: Bearer abc: 403")
    'GET https://sts.eu/x: Authorization: ...: 403'
    """
    return _SECRET.sub("...", words)


def _log_in(name: str) -> str:
    if name in _LOGINS:
        return f"Log in anew, as with {_LOGINS[name]}, and try again"
    return f"Log in anew with {name} in a terminal, and try again"


def _malformed(what: str, context: Context) -> ConfigError:
    hint = f"Mend the entry of the user {context.user_name} in {shown(context.file)}"
    return ConfigError(f"its exec entry {what}", hop=context.name, hint=hint)
