"""What a pod, its claim and its Job say of one broker. Pure.

Of what a container says, only its last word is read, which our own scripts wrote: an engine's log may hold workflow
data, and none of it is ever asked for.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from provisioning.backends.engine.origins import Contents, Origin
from provisioning.backends.kubernetes.kinds import Object, labels, meta, name_in, notes_in
from provisioning.backends.kubernetes.names import (
    BROKER,
    COMPONENT,
    DATA,
    DATA_EPOCH,
    DIGEST,
    FORMER,
    GATEWAY,
    RELEASE,
    node_of,
)
from provisioning.spec import DesiredData

_IMAGE_REASONS = frozenset({"ErrImagePull", "ImagePullBackOff", "InvalidImageName", "ErrImageNeverPull"})
# What a scheduler's sentence has in it when it is about the volume.
_VOLUME_WORDS = ("persistentvolumeclaim", "storageclass", "volume node affinity")
# With -XX:+ExitOnOutOfMemoryError Java ends with 3.
_CAUSES = {3: "it ran out of memory", 137: "its process was killed", 143: "its process was asked to stop"}
_OF = "flowplane.dev/of-pod"
MAX_WORDS = 300
_ORIGIN = re.compile(r"^(data|former) (\S+) (\d+)$", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Pod:
    """A pod of a broker's, or of a gateway's."""

    found: Object

    @property
    def node(self) -> int | None:
        return node_of(name_in(self.found)) if labels(self.found).get(COMPONENT) == BROKER else None

    @property
    def is_gateway(self) -> bool:
        return labels(self.found).get(COMPONENT) == GATEWAY

    @property
    def uid(self) -> str:
        return str(meta(self.found).get("uid", ""))

    @property
    def digest(self) -> str:
        return notes_in(self.found).get(DIGEST, "")

    @property
    def release(self) -> str:
        return notes_in(self.found).get(RELEASE, "")

    @property
    def data_epoch(self) -> int:
        return int(notes_in(self.found).get(DATA_EPOCH, 0))

    @property
    def is_finished(self) -> bool:
        return self._status.get("phase") in {"Succeeded", "Failed"}

    @property
    def is_ready(self) -> bool:
        return self._condition("Ready").get("status") == "True" and not self.is_stopping

    def ready_seconds(self, now: datetime) -> float:
        """Return for how long it has been ready, 0 when it is not."""
        since = self._condition("Ready").get("lastTransitionTime")
        return (now - parse_time(str(since))).total_seconds() if self.is_ready and since else 0.0

    @property
    def is_stopping(self) -> bool:
        return bool(meta(self.found).get("deletionTimestamp"))

    def stopping_seconds(self, now: datetime) -> float:
        """Return how long ago it was told to stop: the time it has is counted from then on."""
        until = meta(self.found).get("deletionTimestamp")
        if not until:
            return 0.0
        grace = float(meta(self.found).get("deletionGracePeriodSeconds") or 0)
        return max(0.0, (now - parse_time(str(until))).total_seconds() + grace)

    @property
    def engine(self) -> Mapping[str, Any]:
        """The engine's container, {} before there is one."""
        return next(
            (one for one in self._status.get("containerStatuses") or () if one.get("name") in (BROKER, GATEWAY)), {}
        )

    @property
    def is_engine_up(self) -> bool:
        """Whether the engine's process runs."""
        return "running" in (self.engine.get("state") or {})

    @property
    def restarts(self) -> int:
        return int(self.engine.get("restartCount", 0))

    @property
    def last_end(self) -> Mapping[str, Any]:
        """How the engine's process ended last in this pod, {} when it has not."""
        for state in (self.engine.get("state") or {}, self.engine.get("lastState") or {}):
            if "terminated" in state:
                return dict(state["terminated"])
        return {}

    @property
    def contents(self) -> Contents | None:
        """What the data's keeper found on the volume, None while it is at work."""
        word = self._last_word
        if word.get("exitCode") != 0:
            return None
        origins = {
            match[1]: Origin(int(match[3]), None, match[2]) for match in _ORIGIN.finditer(word.get("message", ""))
        }
        return Contents(origins.get("data"), origins.get("former"))

    def explain_end(self, name: str) -> str:
        """Return why it ended without being told to, "" when it has not."""
        if self._status.get("phase") == "Failed" and self._status.get("reason"):
            return f"{name} was ended by the region: {self._status['reason']}."
        end = self.last_end
        if not end or self.is_stopping:
            return ""
        code = int(end.get("exitCode", 0))
        cause = "it ran out of memory" if end.get("reason") == "OOMKilled" else _CAUSES.get(code)
        return f"{name} ended without being told to: {cause or f'it gave up (exit code {code})'}."

    def waits_for(self, name: str) -> str:
        """Return a sentence about what it waits for, "" when it is ready."""
        if self.is_ready:
            return ""
        if self.is_stopping:
            return f"{name} is stopping."
        return self._placing(name) or self._preparing(name) or self._running(name)

    def _placing(self, name: str) -> str:
        scheduled = self._condition("PodScheduled")
        if scheduled.get("status") == "False":
            why = str(scheduled.get("message", ""))
            if any(word in why.lower() for word in _VOLUME_WORDS):
                return f"{name} waits for its volume: {sentence(why)}"
            return f"{name} finds no node with room for it: {sentence(why)}"
        return ""

    def _preparing(self, name: str) -> str:
        for container in (*self._init_containers, self.engine):
            waiting = (container.get("state") or {}).get("waiting") or {}
            if waiting.get("reason") in _IMAGE_REASONS:
                return f"{name} waits for the engine's image, which the region cannot fetch: {container.get('image')}."
            if waiting.get("reason") in {"CreateContainerConfigError", "CreateContainerError", "RunContainerError"}:
                return f"{name} cannot be started: {sentence(str(waiting.get('message', '')))}"
        word = self._last_word
        if word.get("exitCode", 0) != 0:
            return sentence(str(word.get("message") or "Its data could not be put in its place, without a word."))
        if any("running" in (one.get("state") or {}) for one in self._init_containers):
            return f"{name}'s data is being put in its place."
        return ""

    def _running(self, name: str) -> str:
        waiting = (self.engine.get("state") or {}).get("waiting") or {}
        if waiting.get("reason") == "CrashLoopBackOff":
            return f"{name} keeps ending; the region starts it again after a while."
        if not self.is_engine_up:
            return f"{name} is being started."
        whose = "The engine's process" if name == "The engine" else name
        return f"{whose} runs and does not answer yet."

    @property
    def _status(self) -> Mapping[str, Any]:
        return self.found.get("status") or {}

    @property
    def _init_containers(self) -> tuple[Mapping[str, Any], ...]:
        return tuple(self._status.get("initContainerStatuses") or ())

    @property
    def _last_word(self) -> Mapping[str, Any]:
        for container in self._init_containers:
            for state in (container.get("state") or {}, container.get("lastState") or {}):
                if "terminated" in state:
                    return dict(state["terminated"])
        return {}

    def _condition(self, kind: str) -> Mapping[str, Any]:
        return next((one for one in self._status.get("conditions") or () if one.get("type") == kind), {})


def noted_contents(claim: Object) -> tuple[Contents, str] | None:
    """Return what a claim's note says is on the volume, and of which pod's time that is; None without a note."""
    noted = notes_in(claim)
    if DATA not in noted:
        return None
    data, former = (Origin.from_record(json.loads(noted.get(name) or "null")) for name in (DATA, FORMER))
    return Contents(data, former), noted.get(_OF, "")


def note_of(contents: Contents, pod_uid: str = "") -> dict[str, str | None]:
    """Return the annotations that tell what is on a volume."""
    record = contents.to_record()
    return {
        DATA: json.dumps(record["data"]),
        DATA_EPOCH: str(contents.data.epoch) if contents.data else None,
        FORMER: json.dumps(record["former"]) if contents.former else None,
        _OF: pod_uid or None,
    }


def contents_of(pod: Pod | None, claim: Object | None, stateful_set: Object | None, wished: DesiredData) -> Contents:
    """Return what is on a broker's volume: from its pod, from its claim's note, else from what was last started.

    An origin's backup is taken to be the wished one when the epoch is: every restore has an epoch of its own.
    """
    found = _contents_of(pod, claim, stateful_set)
    return Contents(_sourced(found.data, wished), _sourced(found.former, wished))


def _contents_of(pod: Pod | None, claim: Object | None, stateful_set: Object | None) -> Contents:
    noted = noted_contents(claim) if claim is not None else None
    said = pod.contents if pod is not None else None
    if pod is not None and said is not None and (noted is None or noted[1] != pod.uid):
        return said
    if noted is not None:
        return noted[0]
    if claim is None or stateful_set is None:
        return Contents()
    started = notes_in((stateful_set.get("spec") or {}).get("template") or {})
    return Contents(Origin(int(started.get(DATA_EPOCH, 0)), None, started.get(RELEASE, "")))


def _sourced(origin: Origin | None, wished: DesiredData) -> Origin | None:
    if origin is None:
        return None
    release = "" if origin.release == "-" else origin.release
    return Origin(origin.epoch, wished.source if origin.epoch == wished.epoch else origin.source, release)


def last_words(pods: Iterable[Object], job_name: str) -> str:
    """Return what the last pod of a Job said at its end, "" when it said nothing."""
    said = ""
    for pod in sorted(pods, key=lambda one: str(meta(one).get("creationTimestamp"))):
        if labels(pod).get("batch.kubernetes.io/job-name") != job_name:
            continue
        for container in (pod.get("status") or {}).get("containerStatuses") or ():
            said = str(((container.get("state") or {}).get("terminated") or {}).get("message") or said)
    return sentence(said) if said else ""


def sentence(words: str) -> str:
    """Return words of the region's as one sentence of bearable length."""
    short = " ".join(words.split())[:MAX_WORDS]
    return short if short.endswith((".", "!", "?")) else f"{short}."


def parse_time(text: str) -> datetime:
    return datetime.fromisoformat(text.replace("Z", "+00:00"))
