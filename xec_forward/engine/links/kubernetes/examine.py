"""The doctor's way to a cluster: the same as an opening's, with a look at each stage.

    kubeconfig     which context, which user and namespace, and where that is written
    plugin         the program that gives the credentials, run as an opening would; `credentials` where there is none
    dns, tcp, tls  of the API server (of its proxy, dns and tcp, then `proxy`); through an SSH host as that one sees it
    api, login     which version answers, and as whom it takes us
    permission     what the user may do of what a port-forward needs, asked by reviews, which leave nothing behind

What lies behind the API server is `examine_port`'s. The SSH hosts come first, as in an opening. Every connection is of
its own and ends with the examination; no live link is used, nothing is written, and no secret is in a finding.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import socket
import ssl
import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import replace

from ....errors import AuthenticationError, ConfigError, DeadlineError, ForwardError
from ....options import ClusterTarget
from ....spec import Endpoint, Resource
from ....spec.names import is_address
from ...health import Probe
from .. import ssh
from ..base import Link
from ..chart import Chart, channel
from ..ssh.examine import Resolve
from . import rights
from .api import Api
from .approach import Approach
from .config import Context, load, shown
from .credentials import Credentials, Login
from .failures import Answer
from .reasons import line

# The longest that a TCP connection and a TLS handshake may take, seconds.
TCP = 10.0
TLS = 10.0

_WHO = "/apis/authentication.k8s.io/v1/selfsubjectreviews"
_PROXY_HINT = "Check proxy-url of the cluster's entry in the kubeconfig, or HTTPS_PROXY"


@contextlib.asynccontextmanager
async def examined(
    target: ClusterTarget, resources: Sequence[Resource], chart: Chart, source: Resolve
) -> AsyncIterator[Api]:
    """An API server of our own connections, each stage of the way to it in `chart`; closed at the end.

    Args:
        resources: what port-forwards are to lead to: the permissions for these are asked.
        source: resolves a SOURCE that the login of an SSH host needs.

    Raises:
        ForwardError: the stage that failed runs still, for `Chart.failed`.
        Halt: the examination cannot go on, and the chart says why.
    """
    async with contextlib.AsyncExitStack() as stack:
        host: Link | None = None
        approach: Approach | None = None
        if target.proxy:
            *before, last = target.proxy
            host = await stack.enter_async_context(ssh.examined(replace(last, proxy=tuple(before)), chart, source))
            approach = Approach(host)
            stack.push_async_callback(approach.close)
        context = await _read(target, chart)
        credentials, login = await _log_in(target, context, chart)
        try:
            api = _Examined(credentials, login, approach)
        except ConfigError:
            chart.stage = "kubeconfig"  # that is where its URLs stand
            raise
        chart.passed(*_described(context, login))
        stack.push_async_callback(api.close)
        await api.approach(login, host, chart)
        minor = await api.ask_version(chart)
        user = await api.ask_user(context, chart)
        await rights.examine(api, user, resources, minor, chart)
        yield api


async def _read(target: ClusterTarget, chart: Chart) -> Context:
    """The context of the kubeconfig."""

    def read() -> Context:
        context = load(target)
        from kubernetes_asyncio.config import kube_config  # noqa: F401  it takes a moment, which is not the plugin's

        return context

    chart.begin(target.host, "kubeconfig")
    context = await asyncio.to_thread(read)
    which = "the context" if target.context else "the current context"
    chart.passed(
        f"{which} {context.name}: user {context.user_name or '(none)'}, namespace {context.namespace}",
        f"read from {shown(context.file)}",
    )
    return context


async def _log_in(target: ClusterTarget, context: Context, chart: Chart) -> tuple[Credentials, Login]:
    """The credentials, whose stage runs on."""
    credentials = Credentials(target, context)
    program = _plugin(context)
    chart.begin(target.host, "plugin" if program else "credentials")
    seconds = chart.limit()
    try:
        async with asyncio.timeout(seconds) as timeout:
            return credentials, await credentials.current(seconds)
    except TimeoutError as error:
        if isinstance(error, ForwardError) or not timeout.expired():
            raise
        hint = f"Run {program} in a terminal; --timeout S allows more time" if program else ""
        what = f"the plugin {program}" if program else "the kubeconfig's files"
        raise DeadlineError(f"{what} did not answer within {seconds:.1f} s", hop=context.name, hint=hint) from None


def _plugin(context: Context) -> str:
    """The name of the program that gives the credentials, or "" (see `credentials`: what is written comes first)."""
    user = context.user
    entry = user.get("exec")
    if any(user.get(key) for key in ("tokenFile", "token", "username")) or not isinstance(entry, dict):
        return ""
    return os.path.basename(str(entry.get("command") or "")) or "exec"


def _described(context: Context, login: Login) -> tuple[str, ...]:
    """What the credentials are, never their value; and until when they hold."""
    user, program = context.user, _plugin(context)
    bearer = any(name == "Authorization" for name, _ in login.headers)
    left = login.expires - time.time()
    until = (f"for another {_duration(left)}",) if program and left != float("inf") else ()
    if program:
        return f"{program} gave {'a token' if bearer else 'a certificate'}", *until
    if user.get("tokenFile"):
        return (f"the token in {shown(str(user['tokenFile']))}",)
    if user.get("token"):
        return ("a token of the kubeconfig",)
    if user.get("username"):
        return ("a name and a password of the kubeconfig",)
    if user.get("auth-provider"):
        return ("the id-token of its OIDC entry",)
    if user.get("client-certificate") or user.get("client-certificate-data"):
        return ("a client certificate of the kubeconfig",)
    return ("none: what is asked is asked by nobody",)


def _duration(seconds: float) -> str:
    if seconds < 120:
        return f"{max(0.0, seconds):.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.0f} h"


class _Examined(Api):
    """An API server whose way is looked at before the first request goes there."""

    async def approach(self, login: Login, host: Link | None, chart: Chart) -> None:
        """Reach it (or its proxy), from here or through `host`; then TLS, where no proxy is before it."""
        url = self._proxy or self._base
        where = Endpoint(str(url.host), url.port)
        hop = str(where)
        if host is not None:
            async with self._stage(chart, hop):
                async with Probe(where) as probe:
                    await channel(chart, hop, host, where, probe.open(host), name="dns", port="tcp")
            chart.passed(f"{host.route[-1]} reaches {where}")
            reached = socket.socket()
            reached.setblocking(False)
            try:  # the door on our loopback
                await asyncio.get_running_loop().sock_connect(reached, await self._address(url))
            except BaseException:
                reached.close()
                raise
        else:
            reached = await self._connect(where, chart)
        if self._proxy is not None:
            reached.close()  # the first request goes on from there, see `_attribute`
        elif login.tls is None:
            reached.close()
            chart.skipped(self.server, "tls", "there is none: the server's URL is http://")
        else:
            await self._shake_hands(reached, login, login.tls, chart)

    async def _connect(self, where: Endpoint, chart: Chart) -> socket.socket:
        """A connection to the first address that answers, in the resolver's order."""
        loop, hop = asyncio.get_running_loop(), str(where)
        chart.begin(hop, "dns")
        async with self._stage(chart, hop), asyncio.timeout(chart.limit(TCP)):
            found = await loop.getaddrinfo(where.host, where.port, type=socket.SOCK_STREAM)
        places = list(dict.fromkeys((family, address) for family, _, _, _, address in found))
        numbers = ", ".join(str(address[0]) for _, address in places)
        chart.passed("an address: nothing to look up" if is_address(where.host) else f"{where.host} is {numbers}")
        chart.begin(hop, "tcp")
        failed: list[str] = []
        while True:
            family, address = places.pop(0)
            numbered = str(Endpoint(str(address[0]), where.port))
            sock = socket.socket(family, socket.SOCK_STREAM)
            sock.setblocking(False)
            try:
                async with self._stage(chart, hop), asyncio.timeout(chart.limit(TCP)):
                    await loop.sock_connect(sock, address)
            except BaseException as error:
                sock.close()
                if not places or not isinstance(error, ForwardError):
                    raise
                failed.append(f"{numbered}: {error.message}")
            else:
                chart.passed(numbered, *failed)
                return sock

    async def _shake_hands(self, sock: socket.socket, login: Login, tls: ssl.SSLContext, chart: Chart) -> None:
        name = self._server_name(login)
        chart.begin(self.server, "tls")
        try:
            async with self._stage(chart, self.server), asyncio.timeout(chart.limit(TLS)):
                loop = asyncio.get_running_loop()
                transport, _ = await loop.create_connection(asyncio.Protocol, sock=sock, ssl=tls, server_hostname=name)
        except BaseException:
            sock.close()
            raise
        version = transport.get_extra_info("ssl_object").version()
        certificate = transport.get_extra_info("peercert")
        transport.abort()
        if tls.verify_mode is ssl.CERT_NONE:
            chart.passed(f"{version}; its certificate is not checked (insecure-skip-tls-verify)")
        else:
            chart.passed(f"{version}, and its certificate is good for {name}", f"until {certificate['notAfter']}")

    @contextlib.asynccontextmanager
    async def _stage(self, chart: Chart, hop: str) -> AsyncIterator[None]:
        """Failures of the network in our words, of the hop that they are of; of a proxy, with its own hint."""
        try:
            async with self._in_our_words():
                yield
        except ForwardError as error:
            error.hop = hop
            if self._proxy is not None:
                error.hint = _PROXY_HINT
            elif not error.hint and chart.stage in ("dns", "tcp"):
                error.hint = "Check server: in the kubeconfig, and whether the network, or the VPN, is up"
            raise

    async def ask_version(self, chart: Chart) -> int | None:
        """The minor version of the server; None where it does not say."""
        chart.begin(self.server, "api")
        try:
            found = await self.get("/version")
        except ForwardError as error:
            status = error.__cause__.status if isinstance(error.__cause__, Answer) else 0
            if status not in (401, 403):
                self._attribute(error, chart)
                raise
            self._note_proxy(chart)
            chart.passed("it answers, and does not say its version")
            if status == 401:
                chart.begin(self.server, "login")
                raise
            return None
        self._note_proxy(chart)
        chart.passed(f"Kubernetes {line(str(found.get('gitVersion') or '(it does not say which)'))}")
        digits = "".join(each for each in str(found.get("minor") or "") if each.isdigit())
        return int(digits) if digits else None

    async def ask_user(self, context: Context, chart: Chart) -> str:
        """As whom the server takes us; the user's name in the kubeconfig where it does not say."""
        chart.begin(self.server, "login")
        known = context.user_name or "nobody"
        try:
            review = await self.post(_WHO, {"apiVersion": "authentication.k8s.io/v1", "kind": "SelfSubjectReview"})
        except ForwardError as error:
            # Older servers have no such review; one that is not for everybody is refused by name.
            if not isinstance(error.__cause__, Answer) or error.__cause__.status not in (403, 404, 405):
                raise
            if "system:anonymous" in error.__cause__.text:
                raise
            chart.passed(f"the credentials of {known} are accepted")
            return known
        info = (review.get("status") or {}).get("userInfo") or {}
        user = line(str(info.get("username") or known))
        groups = ", ".join(map(str, info.get("groups") or ()))
        chart.passed(f"as {user}", *([f"groups {line(groups)}"] if groups else []))
        return user

    def _attribute(self, error: ForwardError, chart: Chart) -> None:
        """The stage that an error of the first request belongs to: the last ones of the way are gone with it."""
        cause = error.__cause__
        if self._proxy is not None and error.hop not in ("", self.server):
            chart.stage = "proxy"
            error.hint = error.hint or _PROXY_HINT
        elif isinstance(cause, Answer):
            pass
        elif isinstance(error, AuthenticationError):
            chart.stage = "login"  # TLS 1.3 refuses a client's certificate after the handshake (RFC 8446, 4.4.2.4)
        elif self._proxy is not None and isinstance(error, ConfigError) and re.search("TLS|certificate", error.message):
            chart.stage = "tls"

    def _note_proxy(self, chart: Chart) -> None:
        """An answer has come through the proxy, where there is one."""
        if self._proxy is not None:
            chart.noted(self.server, "proxy", f"{self._proxy.host}:{self._proxy.port} leads to it")
            chart.noted(self.server, "tls", "as the proxy passes it on")
