"""What the engine is asked for beside tunnels: what a configuration says, what is wrong with a way, a Secret, names."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from ..model import Browse, Examination, Examine, Far, Listing, Look, Outlook, ReadSecret
from ..options import ClusterTarget, SshTarget
from .configured import configured_cluster, configured_host
from .connection import Connection
from .secret import SecretCall
from .watcher import NobodyThere, Watcher

# Reading ssh_config may run programs (Match exec), seconds.
LOOK_LIMIT = 30.0
# Reading a Secret: the cluster's credentials may come from a program, seconds.
SECRET_LIMIT = 30.0
# A list of names, seconds: nobody waits for it longer.
BROWSE_LIMIT = 5.0


class Inquiries(Connection):
    """A connection to the engine, with these questions."""

    def look(self, target: SshTarget | ClusterTarget) -> Outlook:
        """What ssh_config says about a target: its way, its forwards; or a kubeconfig: which context and namespace.

        Nothing is dialled. Raises ConfigError.
        """
        ssh = configured_host(target) if isinstance(target, SshTarget) else None
        cluster = configured_cluster(target) if isinstance(target, ClusterTarget) else None
        outlook = self.call(lambda call: Look(call, ssh, cluster), limit=LOOK_LIMIT).outlook
        assert outlook is not None
        return outlook

    def examine(
        self, target: SshTarget | ClusterTarget, far: Sequence[Far], timeout: float, watcher: Watcher | None = None
    ) -> Examination:
        """Have the way to a target examined, and far ends behind it; the watcher is told each stage.

        Args:
            timeout: seconds that all of it may take.

        Raises:
            EngineError: there is no engine. What else is wrong, the findings tell.
        """
        done = self.call(_examination(target, far, timeout), watcher, timeout)
        assert done.examination is not None
        return done.examination

    async def aexamine(
        self, target: SshTarget | ClusterTarget, far: Sequence[Far], timeout: float, watcher: Watcher | None = None
    ) -> Examination:
        """`examine` for coroutines."""
        done = await self.acall(_examination(target, far, timeout), watcher, timeout)
        assert done.examination is not None
        return done.examination

    def secret(self, cluster: ClusterTarget, name: str, key: str, tunnel: int = 0) -> str:
        """One entry of a Kubernetes Secret, read now: nothing of it is kept.

        Args:
            tunnel: see `model.ReadSecret`.

        Raises:
            ForwardError: the cluster does not give it. EngineError: there is no engine.
        """
        meant = configured_cluster(cluster)
        call = self._begin(SecretCall, lambda number: ReadSecret(number, meant, name, key, tunnel), SECRET_LIMIT)
        try:
            call.wait(self.sources, self.watcher())
            return call.value
        finally:
            self._calls.pop(call.number, None)

    def browse(self, cluster: ClusterTarget, what: Listing, of: str = "") -> tuple[str, ...]:
        """Names in a cluster, for completion; see `model.Browse`. Blocks, starts no engine, and asks nobody anything.

        Raises:
            ForwardError: the cluster does not say. EngineError: the engine is gone.
        """
        if not self.engine_pid:
            return ()
        meant = configured_cluster(cluster)
        return self.call(lambda call: Browse(call, meant, what, of), NobodyThere(), BROWSE_LIMIT).names


def _examination(target: SshTarget | ClusterTarget, far: Sequence[Far], timeout: float) -> Callable[[int], Examine]:
    """Makes the request of an examination."""
    ssh = configured_host(target) if isinstance(target, SshTarget) else None
    cluster = configured_cluster(target) if isinstance(target, ClusterTarget) else None
    return lambda call: Examine(call, ssh, cluster, tuple(far), timeout)
