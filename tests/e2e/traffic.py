"""A client at work: it asks an engine for something again and again, as patiently as our example does, and counts."""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import grpc
from pyzeebe.proto import gateway_pb2, gateway_pb2_grpc

from examples.order_fulfilment.orders import COMMAND_PATIENCE_SECONDS
from examples.order_fulfilment.patience import WORTH_ASKING_AGAIN, delays
from tests.provisioning.backends.tokens import PROCESS, insist

CALL_SECONDS = 5.0
PAUSE_SECONDS = 0.05

# A deployment is answered before every partition has it (camunda/camunda#5648).
PASSING = WORTH_ASKING_AGAIN | {grpc.StatusCode.NOT_FOUND}


@dataclass
class Counts:
    """What became of the calls: `worst_seconds` is the longest that a caller waited for an answer."""

    calls: int = 0
    retries: int = 0
    failed: list[str] = field(default_factory=list)
    worst_seconds: float = 0.0


class Traffic:
    """Runs for the length of a `with` block, on one connection and one token."""

    def __init__(self, variables: Mapping[str, str], token: str) -> None:
        roots = Path(variables["GRPC_DEFAULT_SSL_ROOTS_FILE_PATH"]).read_bytes()
        self._channel = grpc.secure_channel(variables["ZEEBE_ADDRESS"], grpc.ssl_channel_credentials(roots))
        self._gateway = gateway_pb2_grpc.GatewayStub(self._channel)
        self._metadata = (("authorization", f"Bearer {token}"),)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self.counts = Counts()

    def __enter__(self) -> Traffic:
        resource = gateway_pb2.Resource(name="kept.bpmn", content=PROCESS.encode())
        request = gateway_pb2.DeployResourceRequest(resources=[resource])
        insist(lambda: self._gateway.DeployResource(request, metadata=self._metadata, timeout=15, wait_for_ready=True))
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()
        self._channel.close()

    def _run(self) -> None:
        while not self._stop.wait(PAUSE_SECONDS):
            began = time.monotonic()
            failure = self._ask(began + COMMAND_PATIENCE_SECONDS)
            self.counts.calls += 1
            self.counts.worst_seconds = max(self.counts.worst_seconds, time.monotonic() - began)
            if failure:
                self.counts.failed.append(failure)

    def _ask(self, deadline: float) -> str:
        """Have an instance run to its end; "" when it did, else why not."""
        request = gateway_pb2.CreateProcessInstanceWithResultRequest(
            request=gateway_pb2.CreateProcessInstanceRequest(bpmnProcessId="kept", version=-1, variables="{}"),
            requestTimeout=int(CALL_SECONDS * 1000),
        )
        for delay in delays():
            try:
                self._gateway.CreateProcessInstanceWithResult(request, metadata=self._metadata, timeout=CALL_SECONDS)
            except grpc.RpcError as error:
                if error.code() not in PASSING or time.monotonic() > deadline:
                    return f"{error.code().name}: {error.details()}"
                self.counts.retries += 1
                time.sleep(delay)
            else:
                return ""
        raise AssertionError("delays never end")
