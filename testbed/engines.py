"""What a simulated broker answers when its management interface is asked: that a one-broker engine is well.

A program of its own, by the standard library alone. Simulated pods have made-up addresses; a route in the testbed's
network makes all of them this machine's, so one server stands behind every pod, and an API server that passes a
question on to a pod (`pods/proxy`) finds it. What is asked there is in `provisioning/backends/engine/health.py`.
"""

from __future__ import annotations

import ipaddress
import json
import socket
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

PORT = 9600
ANSWERS = {
    "/actuator/health/status": {"status": "UP"},
    "/actuator/partitions": {"1": {"role": "LEADER", "streamProcessorPhase": "PROCESSING", "processedPosition": 1}},
    "/actuator/cluster": {"version": 1, "brokers": [{"id": 0, "state": "ACTIVE"}]},
}


class Broker(BaseHTTPRequestHandler):
    """Any simulated broker. A connection for each question, as its default is: hundreds of pods keep none open."""

    def do_GET(self) -> None:
        """Answer, whichever pod was asked."""
        answer = ANSWERS.get(self.path.partition("?")[0])
        content = json.dumps(answer or {"error": "A simulated broker does not know this."}).encode()
        self.send_response(200 if answer else 404)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, format: str, *arguments: object) -> None:  # noqa: A002 - the standard library's name
        """Nothing: a line for each question would be thousands."""


class Brokers(ThreadingHTTPServer):
    """Listens wherever simulated pods may be, and nowhere else."""

    # Every control plane of a testbed has such a server; all say the same.
    allow_reuse_port = True
    daemon_threads = True
    request_queue_size = 128

    def __init__(self, network: str) -> None:
        self._network = ipaddress.ip_network(network, strict=False)
        super().__init__(("0.0.0.0", PORT), Broker)

    def verify_request(self, request: socket.socket | tuple[bytes, socket.socket], client_address: object) -> bool:
        """Refuse whoever asks the machine itself and not a pod."""
        assert isinstance(request, socket.socket)
        return ipaddress.ip_address(request.getsockname()[0]) in self._network


if __name__ == "__main__":
    Brokers(sys.argv[1]).serve_forever()
