"""Why a pod is not ready, in one line with a fix. Pure; the words of the API where it has them.

What waiting may mend is a `Reason`, shown while it lasts and the text of the error when time is up. What it cannot mend
is an error at once.
"""

from __future__ import annotations

from dataclasses import dataclass

from ....errors import DeadlineError, PodGoneError
from ....spec import ResourceKind
from .objects import ContainerStatus, Meta, Pod, Workload

_LONGEST = 200  # characters of a text of the API's


@dataclass(frozen=True, slots=True)
class Reason:
    """What is waited for.

    Attributes:
        text: one line: "pod/web-1 is Pending: 0/3 nodes are available".
        hint: how to mend it, or where to look.
    """

    text: str
    hint: str = ""

    def __str__(self) -> str:
        return self.text

    def late(self, seconds: float, hop: str) -> DeadlineError:
        """The error when time is up."""
        return DeadlineError(f"no pod was ready within {seconds:g} s: {self.text}", hop=hop, hint=self.hint)


# By the reason of a container that waits (kubelet's pkg/kubelet/images and pkg/kubelet/container, "Pod Lifecycle").
_IMAGE = "Correct the image's name, or the secret it is pulled with"
_HINTS = {
    "ErrImagePull": _IMAGE,
    "ImagePullBackOff": _IMAGE,
    "InvalidImageName": _IMAGE,
    "ErrImageNeverPull": "Load the image onto the node, or change imagePullPolicy",
    "CreateContainerConfigError": "Create the ConfigMap or Secret that it names",
}
# The states on the way to a running container, with nothing to mend.
_ORDINARY = ("ContainerCreating", "PodInitializing")
_REPLACED = ("ReplicaSet", "StatefulSet", "DaemonSet", "ReplicationController", "Job")


def line(text: str) -> str:
    """A text of the API on one line, of bearable length, without control characters."""
    text = "".join(each if each.isprintable() else " " for each in " ".join(text.split()))
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST].rsplit(' ', 1)[0]} ..."


def why_unready(pod: Pod) -> Reason:
    """Why a pod is not ready."""
    name, phase = f"pod/{pod.name}", pod.status.phase
    describe = _describe("pod", pod.metadata)
    if not pod.live:
        return Reason(f"{going(pod)}, and no other has taken its place yet")
    for status in (*(pod.status.init_container_statuses or ()), *(pod.status.container_statuses or ())):
        trouble = _trouble(pod, status)
        if trouble is not None:
            return trouble
    scheduled = pod.condition("PodScheduled")
    if scheduled is not None and scheduled.status == "False":
        # The scheduler goes on, after its first sentence, with what it tried besides.
        text = (scheduled.message or scheduled.reason or "no node has been found").split(". ")[0]
        return Reason(f"{name} is {phase}: {line(text)}", f"Mend what keeps it off the nodes; {describe}")
    if phase == "Unknown":
        return Reason(f"{name}: its node does not answer", describe)
    return Reason(f"{name} is {phase}{_what_lacks(pod)}", describe)


def _trouble(pod: Pod, status: ContainerStatus) -> Reason | None:
    """A container that gets nowhere."""
    waiting = status.state.waiting if status.state else None
    if waiting is None or not waiting.reason or waiting.reason in _ORDINARY:
        return None
    text = f"pod/{pod.name}: container {status.name}: {waiting.reason}"
    if waiting.reason == "CrashLoopBackOff":
        last = status.last_state.terminated if status.last_state else None
        code = f", it ended with exit code {last.exit_code}" if last else ""
        return Reason(
            f"{text}{code}", f"kubectl {_scope(pod.metadata)}logs {pod.name} -c {status.name} --previous shows why"
        )
    more = f": {line(waiting.message)}" if waiting.message else ""
    return Reason(f"{text}{more}", _HINTS.get(waiting.reason) or _describe("pod", pod.metadata))


def _what_lacks(pod: Pod) -> str:
    if pod.status.phase == "Running":
        condition = pod.condition("Ready")
        text = condition.message or condition.reason if condition else ""
        return f" but not ready{f': {line(text)}' if text else ''}"
    condition = pod.condition("Initialized")
    if condition is not None and condition.status == "False" and condition.message:
        return f": {line(condition.message)}"
    for status in pod.status.container_statuses or ():
        if status.state and status.state.waiting and status.state.waiting.reason:
            return f": container {status.name}: {status.state.waiting.reason}"
    return ""


def ended(pod: Pod) -> str:
    """How a finished pod has ended."""
    if pod.status.phase == "Succeeded":
        return f"pod/{pod.name} has completed"
    parts = list(dict.fromkeys(part for part in (pod.status.reason, line(pod.status.message)) if part))
    if not parts:
        states = [each.state.terminated for each in pod.status.container_statuses or () if each.state]
        parts = [f"exit code {state.exit_code}" for state in states if state and state.exit_code][:1]
    return f"pod/{pod.name} has failed" + (f": {': '.join(parts)}" if parts else "")


def going(pod: Pod) -> str:
    """Why connections to the pod are about to end, or "" where they are not."""
    if pod.finished:
        return ended(pod)
    return f"pod/{pod.name} is being deleted" if pod.terminating else ""


def replaced(pod: Pod) -> bool:
    """Whether something makes another pod in its place."""
    return pod.owner is not None and pod.owner.kind in _REPLACED


def gone(pod: Pod) -> PodGoneError:
    """The pod that was named goes or has gone, and no other has its name."""
    owner = pod.owner
    hint = "Name a pod that runs, or what makes them: svc/NAME, deploy/NAME"
    if owner is not None and owner.kind == "ReplicaSet":
        revision = (pod.metadata.labels or {}).get("pod-template-hash", "")
        stem = owner.name.removesuffix(f"-{revision}") if revision else owner.name
        maker = f"deploy/{stem}" if stem != owner.name else f"rs/{stem}"
        hint = f"Name {maker}, which leads to the pod that replaces it"
    return PodGoneError(going(pod) or f"pod/{pod.name} was deleted", hop=f"pod/{pod.name}", hint=hint)


def why_none(workload: Workload, kind: ResourceKind, hop: str) -> Reason:
    """Why a workload has no pod.

    Raises:
        PodGoneError: it has none because it is to have none: scaled to zero, suspended, a job that has ended.
    """
    name, spec = workload.metadata.name, workload.spec
    scope = _scope(workload.metadata)
    if kind is ResourceKind.JOB:
        if workload.holds("Complete"):
            raise PodGoneError("the job has completed, and its pods with it", hop=hop, hint="Run it again, then this")
        failed = workload.holds("Failed")
        if failed is not None:
            text = line(failed.message or failed.reason or "")
            raise PodGoneError(f"the job has failed: {text}", hop=hop, hint=f"kubectl {scope}logs job/{name} shows why")
        if spec.suspend:
            patch = f"""kubectl {scope}patch job {name} -p '{{"spec":{{"suspend":false}}}}' resumes it"""
            raise PodGoneError("the job is suspended", hop=hop, hint=patch)
    if spec.replicas == 0:
        scale = f"kubectl {scope}scale {kind}/{name} --replicas=1 starts one"
        raise PodGoneError(f"the {kind.word} is scaled to zero", hop=hop, hint=scale)
    refused = workload.holds("ReplicaFailure")
    describe = _describe(kind, workload.metadata)
    if refused is not None:
        return Reason(f"{hop} cannot make its pods: {line(refused.message or refused.reason or '')}", describe)
    if workload.status.desired_number_scheduled == 0:
        return Reason(f"{hop} has no pod: no node is one of those it is for", describe)
    return Reason(f"{hop} has no pod yet", describe)


def _describe(kind: str, meta: Meta) -> str:
    return f"kubectl {_scope(meta)}describe {kind} {meta.name} shows its events"


def _scope(meta: Meta) -> str:
    return f"-n {meta.namespace} " if meta.namespace else ""
