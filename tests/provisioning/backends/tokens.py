"""An issuer of tokens for tests, and a gRPC client that presents them; nothing of the product signs here."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
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
    """A stock gRPC client over TLS, trusting one authority."""

    def __init__(self, address: str, authority: Path) -> None:
        self._channel = grpc.secure_channel(address, grpc.ssl_channel_credentials(authority.read_bytes()))
        self._gateway = gateway_pb2_grpc.GatewayStub(self._channel)

    def __enter__(self) -> EngineClient:
        return self

    def __exit__(self, *_: object) -> None:
        self._channel.close()

    def ask(self, token: str | None) -> str:
        """Ask for the topology; the name of the status that came back, OK or another."""
        try:
            self._gateway.Topology(gateway_pb2.TopologyRequest(), metadata=_bearer(token), timeout=15)
        except grpc.RpcError as error:
            return str(error.code().name)
        return "OK"

    def deploy(self, token: str) -> None:
        """Deploy a process of one step."""
        resource = gateway_pb2.Resource(name="kept.bpmn", content=PROCESS.encode())
        request = gateway_pb2.DeployResourceRequest(resources=[resource])
        self._gateway.DeployResource(request, metadata=_bearer(token), timeout=15, wait_for_ready=True)

    def run_deployed(self, token: str) -> int:
        """Start an instance of the deployed process; its key. Raises when the engine does not know the process."""
        request = gateway_pb2.CreateProcessInstanceRequest(bpmnProcessId="kept", version=-1, variables="{}")
        answer = self._gateway.CreateProcessInstance(request, metadata=_bearer(token), timeout=15, wait_for_ready=True)
        return int(answer.processInstanceKey)


def _bearer(token: str | None) -> tuple[tuple[str, str], ...]:
    return (("authorization", f"Bearer {token}"),) if token is not None else ()
