"""All that crosses the pipe: states, snapshots, and the messages between client and engine. Ground floor.

No message has a field a secret could sit in, except `Answer`, which carries one inward when the engine asked
for it, and `Revealed`, which carries one outward when the client did. Messages are msgspec Structs, tagged by their
class name; `wire` turns them into bytes.

    client -> engine   Hello  Open  Close  Reconnect  Check  Look  Examine  ReadSecret  Browse  Describe
                       Cancel  Answer
    engine -> client   Welcome  Changed  Examined  Ask  Revealed  Done  Failed
"""

from __future__ import annotations

from enum import StrEnum

import msgspec

from .errors import ForwardError, from_code
from .options import ClusterTarget, CommandTarget, SshTarget, Target, TunnelOptions
from .spec import Forward, Kind

PROTOCOL_VERSION = 1


class TunnelState(StrEnum):
    """A tunnel's life, as drawn in docs/design.md."""

    IDLE = "idle"
    OPENING = "opening"
    READY = "ready"
    RECONNECTING = "reconnecting"
    WAITING = "waiting"
    DEGRADED = "degraded"
    FAILED = "failed"
    CLOSING = "closing"
    CLOSED = "closed"

    @property
    def ended(self) -> bool:
        """Nothing is listening and nothing will be."""
        return self in (TunnelState.CLOSED,)


class Value(msgspec.Struct, frozen=True):
    """Base of the parts that messages are made of."""


class Fault(Value, frozen=True):
    """An error as it crosses the border; see `errors`."""

    kind: str
    code: str
    message: str
    hop: str = ""
    hint: str = ""

    @classmethod
    def of(cls, error: ForwardError) -> Fault:
        return cls(type(error).__name__, error.code, error.message, error.hop, error.hint)

    def error(self) -> ForwardError:
        """The exception of `errors` that this stands for."""
        return from_code(self.kind, self.message, hop=self.hop, hint=self.hint)

    def __str__(self) -> str:
        return str(self.error())


class Step(Value, frozen=True):
    """One part of an opening: `ssh`, `target`, `postgresql`; how long it took, and what was seen.

    Attributes:
        seconds: how long it took; None while it runs.
        outcome: "ok", or a few words such as "skipped".
    """

    name: str
    seconds: float | None = None
    outcome: str = ""


class Counters(Value, frozen=True):
    """What went through a tunnel. Bytes are payload bytes; up leads away from the notebook."""

    clients: int = 0
    parked: int = 0
    clients_total: int = 0
    bytes_up: int = 0
    bytes_down: int = 0
    refused: int = 0
    rejected: int = 0
    reconnects: int = 0


class Snapshot(Value, frozen=True):
    """What a user may see of a tunnel at one moment.

    Attributes:
        tunnel: the number the client gave it.
        name: its name in the registry.
        route: the hops' names in order, the bastion last.
        listen: the bound address (`127.0.0.1:5432`, or a path), "" before the bind.
        local_host, local_port: the same in parts; port 0 where there is none.
        connect: the far end as the last hop sees it.
        since: when the state was entered (seconds since the epoch); opened: when it first became ready.
        steps: the parts of the last opening; the one that runs has seconds None and `step_since` its start.
        waiting: what the one that runs waits for (a pod that is not ready), or "".
        notes: what the user should know: another local port than the far one, a flag that was ignored.
        log: the path of the engine's log file.
        serial: a clock of this machine (time.monotonic_ns), to tell the newer of two.
        context, namespace: of a kubeconfig, where it leads; "" for no cluster, and as long as they are not known.
    """

    tunnel: int
    name: str
    kind: Kind
    state: TunnelState
    route: tuple[str, ...] = ()
    listen: str = ""
    local_host: str = ""
    local_port: int = 0
    connect: str = ""
    remote_host: str = ""
    remote_port: int = 0
    since: float = 0.0
    opened: float = 0.0
    steps: tuple[Step, ...] = ()
    step_since: float = 0.0
    waiting: str = ""
    counters: Counters = Counters()
    error: Fault | None = None
    notes: tuple[str, ...] = ()
    log: str = ""
    serial: int = 0
    context: str = ""
    namespace: str = ""

    @property
    def way(self) -> tuple[str, ...]:
        """From where clients connect to where they arrive: the listener, the hops, the far end.

        A remote forward runs the other way: `bastion:8080`, `here`, `localhost:3000`.
        """
        far = f"localhost{self.connect}" if self.connect.startswith(":") else self.connect
        if self.kind is Kind.REMOTE:
            host = self.route[-1] if self.route else ""
            listen = f"{host}{self.listen}" if self.listen.startswith((":", "/")) else self.listen
            return tuple(filter(None, (listen, *reversed(self.route[:-1]), "here", far)))
        if self.kind is Kind.DYNAMIC:
            far = "anywhere (SOCKS)"
        return tuple(filter(None, (self.listen, *self.route, far)))


class Stage(Value, frozen=True):
    """One stage of a health check: listener, link, target, hello.

    `milliseconds` is None where it did not pass, and where there is nothing to try (`idle`: a lazy tunnel's link).
    """

    name: str
    milliseconds: float | None
    outcome: str = "ok"


class Health(Value, frozen=True):
    """The result of a health check; true when every stage passed."""

    ok: bool
    stages: tuple[Stage, ...] = ()
    error: Fault | None = None

    def __bool__(self) -> bool:
        return self.ok


class Outlook(Value, frozen=True):
    """What the configuration says about a target.

    Attributes:
        route: the hops in order, the target last, each as `user@host:port`; of a cluster their names.
        forwards: its LocalForward, RemoteForward and DynamicForward lines.
        notes: what else decides: a live master, a ProxyCommand.
        context, namespace: of a cluster: those that its kubeconfig means now.
    """

    route: tuple[str, ...]
    forwards: tuple[Forward, ...] = ()
    notes: tuple[str, ...] = ()
    context: str = ""
    namespace: str = ""


class Outcome(StrEnum):
    """What became of a stage that the doctor examined."""

    RUNNING = "running"
    OK = "ok"
    FAILED = "failed"
    UNSURE = "unsure"
    SKIPPED = "skipped"


class Finding(Value, frozen=True):
    """One stage of the doctor's examination.

    Attributes:
        hop: where: a host of the way, the cluster, its API server, or the far end (`pg.vpc:5432`).
        stage: config, dns, proxy, tcp, banner, key exchange, host key, login, forwarding, far name, far port, or the
            protocol whose hello was waited for. Of a host behind another one, forwarding, dns and tcp are what the one
            before does for it. Of a cluster: kubeconfig, plugin or credentials; dns, tcp, proxy, tls, api, login,
            permission of its API server; resource, pods, readiness, port, forward, listening of a far end.
        seconds: how long it took; None where it runs, or was not examined.
        text: what was seen; details: more of it, a line each.
    """

    hop: str
    stage: str
    outcome: Outcome
    seconds: float | None = None
    text: str = ""
    details: tuple[str, ...] = ()
    error: Fault | None = None


class Examination(Value, frozen=True):
    """All that the doctor found.

    Attributes:
        fix: the one thing to do about it, "" where there is nothing to mend.
        seconds: how long all of it took.
    """

    findings: tuple[Finding, ...]
    fix: str = ""
    seconds: float = 0.0

    @property
    def ok(self) -> bool:
        """Whether every stage that was examined is well, and none was left in doubt."""
        return not any(finding.outcome in (Outcome.FAILED, Outcome.UNSURE) for finding in self.findings)


class Message(msgspec.Struct, frozen=True, tag=True):
    """Base of the messages."""


# client -> engine


class Hello(Message, frozen=True):
    """The first message. `version` is PROTOCOL_VERSION; `notebook` names the owner of the ports to other kernels."""

    version: int
    parent: int
    notebook: str = ""


class Open(Message, frozen=True):
    """Open a tunnel and answer when it is ready or has failed.

    One of `ssh`, `command` and `cluster` is given: the target. Where it is `cluster`, the far end's host is a RESOURCE
    (`spec.resource`).
    `scheme` is the protocol spoken at the far end, "" to go by the far port.
    `reopen` marks a tunnel of an engine that died: its port must be the one in `forward`, and a link that
    cannot be had yet is retried in the place of failing.
    """

    call: int
    tunnel: int
    name: str
    forward: Forward
    options: TunnelOptions
    ssh: SshTarget | None = None
    command: CommandTarget | None = None
    cluster: ClusterTarget | None = None
    scheme: str = ""
    reopen: bool = False

    @property
    def target(self) -> Target:
        """Whichever is given."""
        return self.ssh or self.command or self.cluster or CommandTarget()


class Close(Message, frozen=True):
    """Close these tunnels; answered when nothing of them is left."""

    call: int
    tunnels: tuple[int, ...]


class Reconnect(Message, frozen=True):
    """Drop the link, keep the port, dial again."""

    call: int
    tunnel: int


class Check(Message, frozen=True):
    """Ask for a health check, answered by `Done.health`."""

    call: int
    tunnel: int


class Look(Message, frozen=True):
    """Ask what the configuration says about a target (one of the two), without dialling; answered by `Done.outlook`."""

    call: int
    ssh: SshTarget | None = None
    cluster: ClusterTarget | None = None


class Far(Value, frozen=True):
    """A forward to examine, and the protocol spoken at its far end ("": to go by the far port)."""

    forward: Forward
    scheme: str = ""


class Examine(Message, frozen=True):
    """Examine the way to a target and to far ends behind it, stage by stage; nothing is changed by it.

    One of `ssh` and `cluster` is given: the target. Each stage is told by `Examined` as it begins and as it ends, all
    of them by `Done.examination`.

    Attributes:
        timeout: seconds that all of it may take.
    """

    call: int
    ssh: SshTarget | None = None
    cluster: ClusterTarget | None = None
    far: tuple[Far, ...] = ()
    timeout: float = 30.0


class ReadSecret(Message, frozen=True):
    """Ask for one entry of a Kubernetes Secret, in the cluster's namespace; answered by `Revealed`.

    Attributes:
        tunnel: whose cluster it is: that one's context and namespace count, once they are settled. 0: nobody's.
    """

    call: int
    cluster: ClusterTarget
    name: str
    key: str
    tunnel: int = 0


class Listing(StrEnum):
    """What to list of a cluster."""

    CONTEXTS = "contexts"
    NAMESPACES = "namespaces"
    NAMES = "names"
    PORTS = "ports"


class Browse(Message, frozen=True):
    """Ask what a person may type next; answered by `Done.names`, none where nothing may be asked.

    Attributes:
        of: the kind for NAMES (`svc`), the RESOURCE for PORTS (`svc/postgres`).
    """

    call: int
    cluster: ClusterTarget
    what: Listing
    of: str = ""


class Describe(Message, frozen=True):
    """Ask for fresh snapshots of all tunnels."""

    call: int


class Cancel(Message, frozen=True):
    """The caller of `call` gave up: stop, leave nothing half-open, answer Failed."""

    call: int


class Answer(Message, frozen=True):
    """The answer to an `Ask`; the only message that carries a secret.

    A value of None means no answer: `why` says so in one line, `person` that it was a person who was missing.
    """

    ask: int
    value: str | None = None
    why: str = ""
    person: bool = False

    def __repr__(self) -> str:
        return f"Answer(ask={self.ask}, value={'None' if self.value is None else '***'})"


# engine -> client


class Welcome(Message, frozen=True):
    """The answer to `Hello`: the engine's process id and its log file."""

    version: int
    pid: int
    log: str


class Changed(Message, frozen=True):
    """A tunnel changed. `event` is "" or the event's name (ready, error, close, reconnecting, reconnected)."""

    snapshot: Snapshot
    event: str = ""


class Examined(Message, frozen=True):
    """A stage of the examination that `call` waits for has begun, or ended."""

    call: int
    finding: Finding


class Ask(Message, frozen=True):
    """The engine needs something only the user's side has.

    Attributes:
        call: the call that waits for it, 0 for a reconnection that nobody waits for.
        kind: passphrase, password, or host-key.
        source: the reference of a SOURCE to resolve; "" means a person must be asked.
        prompt: the question for a person, one line or several.
        echo: whether the answer may be seen while it is typed.
    """

    ask: int
    call: int
    kind: str
    source: str = ""
    prompt: str = ""
    echo: bool = False


class Done(Message, frozen=True):
    """A call succeeded."""

    call: int
    snapshots: tuple[Snapshot, ...] = ()
    health: Health | None = None
    outlook: Outlook | None = None
    examination: Examination | None = None
    names: tuple[str, ...] = ()


class Revealed(Message, frozen=True):
    """The answer to `ReadSecret`; with `Answer`, the only message that carries a secret."""

    call: int
    value: str

    def __repr__(self) -> str:
        return f"Revealed(call={self.call}, value=***)"


class Failed(Message, frozen=True):
    """A call failed."""

    call: int
    fault: Fault


Request = Hello | Open | Close | Reconnect | Check | Look | Examine | ReadSecret | Browse | Describe | Cancel | Answer
Report = Welcome | Changed | Examined | Ask | Revealed | Done | Failed
