"""An issuer of tokens for tests, and a gRPC client that presents them; nothing of the product signs here."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import grpc
from joserfc import jwt
from joserfc.jwk import RSAKey
from pyzeebe.proto import gateway_pb2, gateway_pb2_grpc

PROCESS = """<?xml version="1.0" encoding="UTF-8"?>
<bpmn:definitions xmlns:bpmn="http://www.omg.org/spec/BPMN/20100524/MODEL" id="definitions" targetNamespace="http://bpmn.io/schema/bpmn">
  <bpmn:process id="kept" isExecutable="true">
    <bpmn:startEvent id="start"><bpmn:outgoing>flow</bpmn:outgoing></bpmn:startEvent>
    <bpmn:sequenceFlow id="flow" sourceRef="start" targetRef="end"/>
    <bpmn:endEvent id="end"><bpmn:incoming>flow</bpmn:incoming></bpmn:endEvent>
  </bpmn:process>
</bpmn:definitions>"""


# An instance waits at its one task until somebody does it, so it tells whether it has lived through something.
WAITING = (
    PROCESS.replace('"kept"', '"waiting"')
    .replace(
        """<bpmn:sequenceFlow id="flow" sourceRef="start" targetRef="end"/>""",
        """<bpmn:sequenceFlow id="flow" sourceRef="start" targetRef="work"/>
    <bpmn:serviceTask id="work">
      <bpmn:extensionElements>
        <zeebe:taskDefinition xmlns:zeebe="http://camunda.org/schema/zeebe/1.0" type="work"/>
      </bpmn:extensionElements>
      <bpmn:incoming>flow</bpmn:incoming><bpmn:outgoing>last</bpmn:outgoing>
    </bpmn:serviceTask>
    <bpmn:sequenceFlow id="last" sourceRef="work" targetRef="end"/>""",
    )
    .replace('<bpmn:endEvent id="end"><bpmn:incoming>flow<', '<bpmn:endEvent id="end"><bpmn:incoming>last<')
)
# Longer than a leader's election takes on a busy machine.
PATIENCE_SECONDS = 120.0


def make_key(kid: str) -> RSAKey:
    """A signing key with that id."""
    return RSAKey.generate_key(2048, {"kid": kid, "use": "sig", "alg": "RS256"})


@dataclass
class Issuer:
    """Signing keys, of which the last signs."""

    keys: list[RSAKey] = field(default_factory=lambda: [make_key("first")])

    def jwks(self) -> dict[str, Any]:
        """The public halves, as a backend publishes them."""
        return {"keys": [key.as_dict(private=False) for key in self.keys]}

    def token(self, audience: str, *, key: RSAKey | None = None, lives_seconds: int = 600, **claims: Any) -> str:
        """A token for an audience, by the newest key unless told otherwise."""
        signer = key or self.keys[-1]
        now = int(time.time())
        content = {"iss": "https://issuer", "sub": "client", "aud": audience, "iat": now, "exp": now + lives_seconds}
        header = {"alg": "RS256", "kid": signer.as_dict(private=False)["kid"]}
        return jwt.encode(header, {**content, **claims}, signer)

    def bad_tokens(self, audience: str) -> dict[str, str | None]:
        """Everything that an engine with this audience must refuse, by name."""
        return {
            "none": None,
            "garbage": "garbage",
            "of another cluster": self.token("00000000-0000-0000-0000-00000000beef/1"),
            "of an earlier access epoch": self.token(f"{audience}0"),
            "expired": self.token(audience, lives_seconds=-3600),
            "forged": self.token(audience, key=make_key("first")),
            "of an unknown key": self.token(audience, key=make_key("unknown")),
        }


class EngineClient:
    """A stock gRPC client over TLS, trusting one authority; `name` is what it asks for where nobody resolves that."""

    def __init__(self, address: str, authority: Path, *, name: str = "") -> None:
        # By itself it would wait for two minutes before it tries an address again that has failed a few times.
        options: list[tuple[str, str | int]] = [("grpc.max_reconnect_backoff_ms", 2000)]
        if name:
            options.append(("grpc.ssl_target_name_override", name))
        credentials = grpc.ssl_channel_credentials(authority.read_bytes())
        self._channel = grpc.secure_channel(address, credentials, options)
        self._gateway = gateway_pb2_grpc.GatewayStub(self._channel)

    def __enter__(self) -> EngineClient:
        return self

    def __exit__(self, *_: object) -> None:
        self._channel.close()

    def ask(self, token: str | None) -> str:
        """Ask for the topology; the name of the status that came back, OK or another."""
        try:
            self._gateway.Topology(gateway_pb2.TopologyRequest(), metadata=_bearer(token), timeout=60)
        except grpc.RpcError as error:
            return str(error.code().name)
        return "OK"

    def deploy(self, token: str) -> None:
        """Deploy a process of one step."""
        resource = gateway_pb2.Resource(name="kept.bpmn", content=PROCESS.encode())
        request = gateway_pb2.DeployResourceRequest(resources=[resource])
        insist(lambda: self._gateway.DeployResource(request, metadata=_bearer(token), timeout=15, wait_for_ready=True))

    def leaders(self, token: str) -> dict[int, int]:
        """Which broker leads each partition, as the engine tells its clients; none while nobody answers."""
        try:
            answer = self._gateway.Topology(gateway_pb2.TopologyRequest(), metadata=_bearer(token), timeout=15)
        except grpc.RpcError:
            return {}
        return {
            partition.partitionId: broker.nodeId
            for broker in answer.brokers
            for partition in broker.partitions
            if partition.role == gateway_pb2.Partition.LEADER
        }

    def deploy_waiting(self, token: str) -> None:
        """Deploy the process whose instances wait."""
        resource = gateway_pb2.Resource(name="waiting.bpmn", content=WAITING.encode())
        request = gateway_pb2.DeployResourceRequest(resources=[resource])
        insist(lambda: self._gateway.DeployResource(request, metadata=_bearer(token), timeout=15))

    def create_waiting(self, token: str, number: int) -> None:
        """Start an instance that carries this number, trying again until the engine has taken it: at least once."""
        variables = json.dumps({"number": number})
        request = gateway_pb2.CreateProcessInstanceRequest(bpmnProcessId="waiting", version=-1, variables=variables)
        insist(lambda: self._gateway.CreateProcessInstance(request, metadata=_bearer(token), timeout=10))

    def finish_waiting(self, token: str, wanted: set[int]) -> set[int]:
        """Do the waiting instances' work until all the wanted ones are done or no more comes; their numbers."""
        done: set[int] = set()
        deadline = time.monotonic() + PATIENCE_SECONDS
        while not wanted <= done and time.monotonic() < deadline:
            done |= self._finish_some(token)
        return done

    def _finish_some(self, token: str) -> set[int]:
        request = gateway_pb2.ActivateJobsRequest(
            type="work", worker="test", timeout=60_000, maxJobsToActivate=1000, requestTimeout=3000
        )
        numbers = set()
        try:
            for batch in self._gateway.ActivateJobs(request, metadata=_bearer(token), timeout=20):
                for job in batch.jobs:
                    done = gateway_pb2.CompleteJobRequest(jobKey=job.key, variables="{}")
                    insist(partial(self._gateway.CompleteJob, done, metadata=_bearer(token), timeout=10))
                    numbers.add(int(json.loads(job.variables)["number"]))
        except grpc.RpcError:
            time.sleep(0.2)
        return numbers

    def run_deployed(self, token: str) -> int:
        """Start an instance of the deployed process; its key. Raises when the engine does not know the process."""
        request = gateway_pb2.CreateProcessInstanceRequest(bpmnProcessId="kept", version=-1, variables="{}")
        answer = self._gateway.CreateProcessInstance(request, metadata=_bearer(token), timeout=15, wait_for_ready=True)
        return int(answer.processInstanceKey)


def _bearer(token: str | None) -> tuple[tuple[str, str], ...]:
    return (("authorization", f"Bearer {token}"),) if token is not None else ()


def insist(call: Callable[[], object]) -> None:
    """Repeat a call until it succeeds, as a client does whose engine has just lost a broker."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while True:
        try:
            call()
        except grpc.RpcError as error:
            if error.code() is grpc.StatusCode.NOT_FOUND and "job" in str(error.details()):
                return  # the attempt before has done it, and its answer was lost
            if time.monotonic() > deadline:
                raise
            time.sleep(0.2)
        else:
            return
