"""Who we are to a cluster: the header and the TLS context that each request takes along, renewed in time.

kubernetes_asyncio makes its configuration of the one context that `config` chose. What it does not do is done here:

- a token with an end (a plugin's, a file's, an id-token's) is loaded anew before it ends, and after a 401 all of it is
  read again from the kubeconfig, so that a login made meanwhile in a terminal is found;
- keys lie in a temporary file only while the TLS context is made, and nobody's kubeconfig is ever written;
- an expired OIDC id-token is not refreshed here (kubernetes_asyncio would do it without checking the issuer's
  certificate): kubectl refreshes it in the kubeconfig, from where it is read again.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import json
import os
import ssl
import tempfile
import time
from collections.abc import Hashable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from ....errors import AuthenticationError, ConfigError, ForwardError
from ....options import ClusterTarget
from . import plugin
from .config import Context, Section, load, shown

if TYPE_CHECKING:
    from kubernetes_asyncio.client import Configuration

# A token file is read again after this many seconds, as client-go does: the kubelet rotates it.
FILE_PERIOD = 60.0
# Loaded anew this long before the end, or a tenth of its life where that is less.
_MARGIN = 10.0
_REMOVED_PROVIDERS = {
    "gcp": "gke-gcloud-auth-plugin: gcloud container clusters get-credentials writes the entry",
    "azure": "kubelogin: kubelogin convert-kubeconfig writes the entry",
}
# What a header's name may have beside letters and digits (RFC 9110, 5.6.2); of an extra all else goes as %2F, and so
# does the %, as in client-go.
_IN_A_NAME = "!#$&'*+-.^_`|~"
_TLS_KEYS = ("certificate-authority", "client-certificate", "client-key")


@dataclass(frozen=True, slots=True, repr=False)
class Login:
    """What a request takes along.

    Attributes:
        server: the API server's URL, without a slash at its end.
        headers: Authorization, and whom to act as.
        tls: None for a server without TLS.
        server_name: the name that its certificate must have, "" for the server's own.
        proxy: proxy-url, or "".
        expires: when it is to be loaded anew, in seconds of `time.time`.
        state: what the TLS context was made of.
    """

    server: str
    headers: tuple[tuple[str, str], ...]
    tls: ssl.SSLContext | None
    server_name: str
    proxy: str
    expires: float
    state: Hashable


class Credentials:
    """The login to one cluster. Concurrent callers share one renewal, and its failure. Make one with `open`.

    Attributes:
        context: what the kubeconfig says.
    """

    def __init__(self, target: ClusterTarget, context: Context) -> None:
        self.context = context
        # Another current-context tomorrow must not lead to another cluster.
        self._target = replace(target, context=context.name)
        self._lock = asyncio.Lock()
        self._login: Login | None = None
        self._renewals = 0  # that have ended
        self._failure: ForwardError | None = None  # of the last renewal

    @classmethod
    async def open(cls, target: ClusterTarget, patience: float = float("inf")) -> Credentials:
        """Read the kubeconfig and log in, as `current` does. Raises what that raises."""
        credentials = cls(target, await asyncio.to_thread(load, target))
        await credentials.current(patience)
        return credentials

    async def current(self, patience: float = float("inf")) -> Login:
        """A login that has not ended.

        Args:
            patience: seconds that whoever waits for it has, a plugin's person included; infinity: no person is there,
                see `plugin.DEADLINE`.

        Raises:
            ConfigError: the kubeconfig or a file that it names is at fault, or a plugin is not there.
            AuthenticationError: the plugin failed, or the login has ended.
            DeadlineError, UnreachableError, EngineError: see `plugin.ask`.
        """
        seen = self._renewals
        async with self._lock:
            if self._login is None or time.time() >= self._login.expires:
                if self._renewals != seen and self._failure is not None:
                    raise self._failure  # of the one that was waited for: another would fail as it did, and as late
                self._login = await self._load(patience)
            return self._login

    async def renewed(self, refused: Login) -> Login | None:
        """Another login after the server refused this one, or None where there is no other. Raises as `current`."""
        async with self._lock:
            if self._login is refused:
                self.context = await asyncio.to_thread(load, self._target)
                self._login = await self._load()
            assert self._login is not None
            same = self._login.headers == refused.headers and self._login.tls is refused.tls
            return None if same else self._login

    async def _load(self, patience: float = float("inf")) -> Login:
        self._failure = None
        try:
            user, expires = await _resolve(self.context, patience)
            return await asyncio.to_thread(_login, self.context, user, expires, self._login)
        except ForwardError as error:
            self._failure = error
            raise
        finally:
            self._renewals += 1


async def _resolve(context: Context, patience: float) -> tuple[dict[str, Any], float]:
    """The user's entry with whatever it refers to in its place: a token or a certificate; and when that ends."""
    user, now = dict(context.user), time.time()
    if path := user.pop("tokenFile", None):
        # Where both are given, client-go takes the file's.
        user["token"] = await asyncio.to_thread(_read_token, str(path), context)
        return user, now + FILE_PERIOD
    if user.get("token") or user.get("username"):
        return user, float("inf")
    if user.get("exec"):
        credential = await plugin.ask(context, patience)
        if credential.token:
            user["token"] = credential.token
        if credential.certificate and credential.key:
            user["client-certificate-data"] = _encoded(credential.certificate)
            user["client-key-data"] = _encoded(credential.key)
        if credential.expires is None:
            return user, float("inf")
        return user, credential.expires - min(_MARGIN, max(0.0, credential.expires - now) / 10)
    if provider := user.get("auth-provider"):
        token, ends = _of_provider(provider, context)
        user["token"] = token
        return user, ends - _MARGIN
    return user, float("inf")


def _read_token(path: str, context: Context) -> str:
    try:
        with open(path, encoding="ascii") as file:
            token = file.read(1 << 20).strip()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it holds no token"
        raise ConfigError(f"the token file {shown(path)} cannot be read: {reason}", hop=context.name) from None
    if not token:
        raise ConfigError(f"the token file {shown(path)} is empty", hop=context.name)
    return token


def _of_provider(provider: object, context: Context) -> tuple[str, float]:
    """The id-token of an OIDC entry and when it ends (RFC 7519, 4.1.4)."""
    entry = provider if isinstance(provider, dict) else {}
    name, settings = str(entry.get("name") or ""), entry.get("config") or {}
    if name != "oidc":
        hint = f"Use {_REMOVED_PROVIDERS.get(name, 'an exec plugin')}"
        raise ConfigError(f"there is no auth-provider {name} any more", hop=context.name, hint=hint)
    hint = (
        f"Run kubectl get pods --context {context.name} once, which renews it in {shown(context.file)}; or log in anew"
    )
    token = str(settings.get("id-token") or "")
    try:
        payload = token.split(".")[1]
        ends = float(json.loads(base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4)))["exp"])
    except (IndexError, KeyError, TypeError, ValueError):
        message = "its OIDC entry holds no id-token" if not token else "the id-token of its OIDC entry is malformed"
        raise AuthenticationError(message, hop=context.name, hint=hint) from None
    if time.time() >= ends:
        raise AuthenticationError("the id-token of its OIDC entry has expired", hop=context.name, hint=hint)
    return token, ends


def _login(context: Context, user: Section, expires: float, last: Login | None) -> Login:
    """Make the configuration and the TLS context. Reads files: runs in a thread."""
    state = _tls_state(context, user)
    with tempfile.TemporaryDirectory(prefix="xec-forward-") as folder:
        cluster = _with_files(context.cluster, folder, context)
        configuration = _configuration(context, cluster, _with_files(user, folder, context))
        # Where it is the same, connections that are up can be used again.
        tls = last.tls if last is not None and last.state == state else _tls(configuration, context)
    authorization = str(configuration.api_key.get("BearerToken") or "")
    headers = ((("Authorization", authorization),) if authorization else ()) + _impersonation(user)
    for name, value in headers:
        if "\r" in value or "\n" in value:
            what = "token" if name == "Authorization" else name
            raise ConfigError(f"the {what} of the user {context.user_name} spans several lines", hop=context.name)
    return Login(
        server=str(configuration.host),
        headers=headers,
        tls=tls,
        server_name=str(configuration.tls_server_name or ""),
        proxy=str(configuration.proxy or ""),
        expires=expires,
        state=state,
    )


def _configuration(context: Context, cluster: Section, user: Section) -> Configuration:
    """kubernetes_asyncio's configuration of one context. It is imported late: it takes half a second of CPU."""
    from kubernetes_asyncio.client import Configuration
    from kubernetes_asyncio.config import ConfigException
    from kubernetes_asyncio.config.kube_config import KubeConfigLoader

    secrets = {key: user[key] for key in ("token", "username", "password") if user.get(key)}
    files = {key: user[key] for key in _TLS_KEYS if user.get(key)}
    document = {
        "current-context": "it",
        "contexts": [{"name": "it", "context": {"cluster": "it", "user": "it"}}],
        "clusters": [{"name": "it", "cluster": {**cluster, "server": _with_scheme(cluster, files)}}],
        "users": [{"name": "it", "user": secrets | files}],
    }
    configuration = Configuration()
    try:
        # A coroutine that waits for nothing, now that every reference is resolved.
        asyncio.run(KubeConfigLoader(document).load_and_set(configuration))
    except ConfigException as error:
        hint = f"See the entries of {context.name} in {shown(context.file)}"
        raise ConfigError(str(error), hop=context.name, hint=hint) from None
    return configuration


def _with_scheme(cluster: Section, files: Section) -> str:
    """The server's URL; without a scheme it is http, unless anything says TLS (client-go, DefaultServerURL)."""
    server = str(cluster["server"])
    if "://" in server:
        return server
    secure = files or cluster.get("certificate-authority") or cluster.get("insecure-skip-tls-verify")
    return f"{'https' if secure else 'http'}://{server}"


def _with_files(entry: Section, folder: str, context: Context) -> dict[str, Any]:
    """The entry with its inline certificates and keys as files in `folder`, where OpenSSL wants them."""
    resolved = dict(entry)
    for key in _TLS_KEYS:
        data = resolved.pop(f"{key}-data", None)
        if not data:
            continue
        try:
            content = base64.b64decode("".join(str(data).split()), validate=True)
        except (binascii.Error, ValueError):
            hint = f"Mend it in {shown(context.file)}"
            raise ConfigError(f"{key}-data is not base64", hop=context.name, hint=hint) from None
        path = os.path.join(folder, key)
        with open(path, "wb") as file:
            file.write(content)
        resolved[key] = path
    return resolved


def _tls_state(context: Context, user: Section) -> Hashable:
    """What the TLS context depends on: what is written in the entries, and the age of the files that they name."""
    parts: list[Hashable] = [bool(context.cluster.get("insecure-skip-tls-verify"))]
    for entry in (context.cluster, user):
        for key in _TLS_KEYS:
            parts.append(str(entry.get(f"{key}-data") or ""))
            path = str(entry.get(key) or "")
            try:
                age: int | None = os.stat(path).st_mtime_ns if path else None
            except OSError:
                age = None
            parts.append((path, age))
    return tuple(parts)


def _tls(configuration: Configuration, context: Context) -> ssl.SSLContext | None:
    if not str(configuration.host).startswith("https://"):
        return None
    at = "certificate-authority"
    try:
        tls = ssl.create_default_context(cafile=configuration.ssl_ca_cert)
        # As Go, and so every cluster's maker, has it: any certificate on file is an anchor, and an authority's own
        # certificate need not have each extension of RFC 5280.
        tls.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
        tls.verify_flags &= ~ssl.VERIFY_X509_STRICT
        if not configuration.verify_ssl:
            tls.check_hostname = False
            tls.verify_mode = ssl.CERT_NONE
        if configuration.cert_file:
            at = "client-certificate and client-key"
            # An encrypted key would be asked for on a terminal.
            tls.load_cert_chain(configuration.cert_file, configuration.key_file, password=lambda: b"")
    except (OSError, ValueError) as error:  # SSLError is an OSError
        why = error.reason if isinstance(error, ssl.SSLError) else getattr(error, "strerror", None)
        why = (why or "malformed PEM, or an encrypted key").replace("_", " ").lower()
        message = f"{at} cannot be used: {why}"
        raise ConfigError(message, hop=context.name, hint=f"Mend it in {shown(context.file)}") from None
    return tls


def _impersonation(user: Section) -> tuple[tuple[str, str], ...]:
    """The headers for `as`, `as-uid`, `as-groups` and `as-user-extra` ("User impersonation")."""
    named = (("as", "User"), ("as-uid", "Uid"))
    headers = [(f"Impersonate-{header}", str(user[key])) for key, header in named if user.get(key)]
    headers += [("Impersonate-Group", str(group)) for group in user.get("as-groups") or ()]
    for key, values in dict(user.get("as-user-extra") or {}).items():
        name = quote(str(key), safe=_IN_A_NAME)
        headers += [(f"Impersonate-Extra-{name}", str(value)) for value in values]
    return tuple(headers)


def _encoded(text: str) -> str:
    return base64.b64encode(text.encode()).decode()
