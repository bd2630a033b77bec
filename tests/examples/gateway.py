"""A gateway that speaks the engine's own protocol over a real connection and can be told to be busy."""

import asyncio
import json
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import grpc
from pyzeebe.proto import gateway_pb2

TOLD_BY_CLIENTS = ("CompleteJob", "FailJob", "ThrowError", "PublishMessage")


class BusyGateway:
    """Hands out one job, and refuses whatever is scripted in `refusals`, method by method, before it agrees."""

    def __init__(self, job_type: str, variables: dict[str, Any], *, deadline_in_seconds: float = 30.0) -> None:
        self.job_type = job_type
        self.variables = variables
        self.deadline_in_seconds = deadline_in_seconds
        self.refusals: dict[str, list[grpc.StatusCode]] = {}
        self.asked: Counter[str] = Counter()
        self.told: list[Any] = []
        self.settled = asyncio.Event()

    async def activate_jobs(self, request: Any, _: Any) -> AsyncIterator[Any]:
        """Hand the job out once; afterwards there is nothing to do, as in a long poll that ends empty."""
        if request.type == self.job_type and not self.asked["ActivateJobs"]:
            self.asked["ActivateJobs"] += 1
            yield gateway_pb2.ActivateJobsResponse(jobs=[self._job()])
        else:
            await asyncio.sleep(0.2)

    async def hear(self, method: str, request: Any, context: grpc.aio.ServicerContext[Any, Any]) -> Any:
        """Refuse as scripted, then agree."""
        self.asked[method] += 1
        refusals = self.refusals.get(method, [])
        if refusals:
            code = refusals.pop(0)
            if not refusals and code in {grpc.StatusCode.NOT_FOUND, grpc.StatusCode.ALREADY_EXISTS}:
                self.settled.set()
            await context.abort(code, "not now")
        self.told.append(request)
        self.settled.set()
        return getattr(gateway_pb2, f"{method}Response")()

    def _job(self) -> Any:
        return gateway_pb2.ActivatedJob(
            key=7,
            type=self.job_type,
            retries=5,
            customHeaders="{}",
            variables=json.dumps(self.variables),
            deadline=int((time.time() + self.deadline_in_seconds) * 1000),
        )


def make_handler(gateway: BusyGateway) -> "grpc.GenericRpcHandler[Any, Any]":
    """Return the part of the engine's protocol that the workers use."""
    methods = {
        method: grpc.unary_unary_rpc_method_handler(
            partial(gateway.hear, method),
            request_deserializer=getattr(gateway_pb2, f"{method}Request").FromString,
            response_serializer=getattr(gateway_pb2, f"{method}Response").SerializeToString,
        )
        for method in TOLD_BY_CLIENTS
    }
    methods["ActivateJobs"] = grpc.unary_stream_rpc_method_handler(
        gateway.activate_jobs,
        request_deserializer=gateway_pb2.ActivateJobsRequest.FromString,
        response_serializer=gateway_pb2.ActivateJobsResponse.SerializeToString,
    )
    return grpc.method_handlers_generic_handler("gateway_protocol.Gateway", methods)


@asynccontextmanager
async def serving(gateway: BusyGateway) -> AsyncIterator[grpc.aio.Channel]:
    """Serve the gateway on a free loopback port and yield a channel to it."""
    server = grpc.aio.server()
    server.add_generic_rpc_handlers((make_handler(gateway),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
            yield channel
    finally:
        await server.stop(grace=None)
