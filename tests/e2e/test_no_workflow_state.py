"""No workflow state, provably: what an engine works on is found in the engine's folder and nowhere in ours."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from uuid import uuid4

import grpc
import pytest
from pyzeebe.proto import gateway_pb2 as messages
from pyzeebe.proto import gateway_pb2_grpc

import examples.order_fulfilment
from embedded.doors import wait_for
from tests.e2e.canaries import files, hits, listening, our_files, postgres_dump, postgres_files, redis_keys
from tests.e2e.stack import Stack
from tests.provisioning.backends.tokens import insist

pytestmark = [pytest.mark.stack, pytest.mark.engine, pytest.mark.timeout(900)]

PROCESS = Path(examples.order_fulfilment.__file__).with_name("order_fulfilment.bpmn")
FIRST_JOB = "retrieve-payment"
START_MESSAGE = "order-placed"
CANARIES = (
    "process id",
    "job type",
    "message name",
    "correlation key",
    "variable",
    "error message",
    "worker name",
    "resource name",
)


def marked_process(canaries: Mapping[str, str]) -> bytes:
    """The example's process with our strings for its id, its job and its message."""
    text = PROCESS.read_text(encoding="utf-8")
    text = text.replace('process id="order-fulfilment"', f'process id="{canaries["process id"]}"')
    text = text.replace(f'type="{FIRST_JOB}"', f'type="{canaries["job type"]}"')
    text = re.sub(rf'name="{START_MESSAGE}"', f'name="{canaries["message name"]}"', text)
    assert all(canaries[name] in text for name in ("process id", "job type", "message name"))
    return text.encode()


@contextmanager
def engine(variables: Mapping[str, str], token: str) -> Iterator[tuple[Any, dict[str, Any]]]:
    """The engine's own interface, and what every call to it needs."""
    roots = Path(variables["GRPC_DEFAULT_SSL_ROOTS_FILE_PATH"]).read_bytes()
    with grpc.secure_channel(variables["ZEEBE_ADDRESS"], grpc.ssl_channel_credentials(roots)) as channel:
        call = {"metadata": (("authorization", f"Bearer {token}"),), "timeout": 30.0}
        yield gateway_pb2_grpc.GatewayStub(channel), call


def work(variables: Mapping[str, str], token: str, canaries: Mapping[str, str]) -> None:
    """Deploy the marked process, start an instance by message, take its first job, and fail it for good."""
    order = {"id": canaries["correlation key"], "customer": canaries["variable"], "items": [], "total": 1}
    with engine(variables, token) as (stub, call):
        resource = messages.Resource(name=f"{canaries['resource name']}.bpmn", content=marked_process(canaries))
        # The engine has only just come up.
        insist(lambda: stub.DeployResource(messages.DeployResourceRequest(resources=[resource]), **call))
        stub.PublishMessage(
            messages.PublishMessageRequest(
                name=canaries["message name"],
                correlationKey=canaries["correlation key"],
                timeToLive=60_000,
                variables=json.dumps({"order": order}),
            ),
            **call,
        )
        job = first_job(stub, call, canaries)
        stub.FailJob(messages.FailJobRequest(jobKey=job.key, retries=0, errorMessage=canaries["error message"]), **call)


def first_job(stub: Any, call: dict[str, Any], canaries: Mapping[str, str]) -> Any:
    request = messages.ActivateJobsRequest(
        type=canaries["job type"],
        worker=canaries["worker name"],
        timeout=60_000,
        maxJobsToActivate=1,
        requestTimeout=20_000,
    )

    def look() -> Any:
        return next((job for answer in stub.ActivateJobs(request, **call) for job in answer.jobs), None)

    return wait_for(look, seconds=120, what="The first job")


def test_what_an_engine_works_on_is_nowhere_but_in_the_engine(stack: Stack) -> None:
    canaries = {name: f"canary-{uuid4().hex}" for name in CANARIES}
    customer = stack.customer()
    with listening(stack.home) as tap:
        made = customer.create_cluster(name="watched")
        cluster_id = made["cluster"]["id"]
        assert customer.finished(made["operation"])["state"] == "succeeded"
        variables = customer.credential(cluster_id)
        token = stack.access_token(variables)
        work(variables, token, canaries)
        # Whatever looks at a cluster looks once more, now that there is something to see: a stop and a start,
        # and every door that tells of it.
        for change in ("suspend", "resume"):
            operation = customer.api("POST", f"/clusters/{cluster_id}/{change}", {})
            assert customer.finished(operation)["state"] == "succeeded"
        for path in ("", "/operations", "/credentials"):
            customer.api("GET", f"/clusters/{cluster_id}{path}")
        stack.manage("system", "reconcile", cluster_id, "--dry-run")

    assert set(hits(canaries, files(stack.home.region))), "the engine has never seen the canaries"
    # Each search finds what is really there, so its silence means something.
    ours = {"our own cluster's id": cluster_id}
    for name, pieces in {
        "dump": postgres_dump(stack),
        "files": postgres_files(stack.home),
        "tasks": tap.pieces(),
        "logs": files(stack.home.logs),
    }.items():
        assert hits(ours, pieces), f"the search of {name} is blind"

    # Nor is what opens an engine's door: a credential's secret is shown once, a token is not kept.
    canaries |= {"client secret": variables["ZEEBE_CLIENT_SECRET"], "access token": token}
    found = [
        *hits(canaries, postgres_dump(stack)),
        *hits(canaries, postgres_files(stack.home)),
        *hits(canaries, redis_keys(stack.home)),
        *hits(canaries, tap.pieces()),
        *hits(canaries, our_files(stack.home)),
    ]
    assert found == []
