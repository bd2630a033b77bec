"""The ceiling beside which a burst is measured: a client that does nothing but lay objects down.

    python -m bench.k8s_bare KUBECONFIG TEMPLATE TENANTS [THREADS]

Server-side apply, raw JSON, one pool of connections, 8 threads; a tenant's objects are the template's with another id
in the place of its own. No state, no certificate of its own, no look at what is there. Prints what it took as JSON.
"""

from __future__ import annotations

import json
import resource
import sys
import time
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from uuid import UUID, uuid4

from provisioning.backends.kubernetes.connection import connect
from provisioning.backends.kubernetes.kinds import NAMESPACE, kind_of

THREADS = 8
# Whose id the template's objects carry.
TEMPLATE_ID = UUID("0c0ffee0-0000-4000-8000-000000000005")


@dataclass(frozen=True, slots=True)
class _Piece:
    """One request: a way and a body, both with the template's id in them."""

    method: str
    path: str
    body: str
    content_type: str


class Bare:
    """Lays tenants down; for any number of threads."""

    def __init__(self, kubeconfig: Path, template: Path) -> None:
        self._connection = connect(kubeconfig)
        self._pieces = [_piece(one) for one in json.loads(template.read_text(encoding="utf-8"))]

    def lay_down(self, tenant: str) -> None:
        """Make one tenant's objects, one after the other."""
        for piece in self._pieces:
            path, body = (text.replace(str(TEMPLATE_ID), tenant) for text in (piece.path, piece.body))
            headers = {**self._connection.headers(), "Content-Type": piece.content_type}
            answer = self._connection.http.request(
                piece.method, self._connection.host + path, body=body.encode(), headers=headers
            )
            if answer.status >= 300:
                raise RuntimeError(f"{piece.method} {path} answered {answer.status}: {answer.data[:500]!r}")


def _piece(one: dict[str, object]) -> _Piece:
    namespace = f"fp-{TEMPLATE_ID}"
    kind, name = kind_of(one), str(one["metadata"]["name"])  # type: ignore[index]
    if kind.name == NAMESPACE.name:
        return _Piece("POST", kind.path(), json.dumps(one), "application/json")
    path = f"{kind.path(namespace, name)}?fieldManager=bare&force=true"
    return _Piece("PATCH", path, json.dumps(one), "application/apply-patch+yaml")


def lay_all_down(bare: Bare, tenants: Iterable[str], threads: int = THREADS) -> None:
    """Make all these tenants' objects, so many tenants at once."""
    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(bare.lay_down, tenants))


def main() -> None:
    """Lay so many tenants down and say what it took."""
    kubeconfig, template, count, *threads = sys.argv[1:]
    bare = Bare(Path(kubeconfig), Path(template))
    tenants = [str(uuid4()) for _ in range(int(count))]
    began, used = time.monotonic(), time.process_time()
    lay_all_down(bare, tenants, int(threads[0]) if threads else THREADS)
    spent = {
        "seconds": time.monotonic() - began,
        "cpu_seconds": time.process_time() - used,
        "peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6,
        "tenants": tenants,
    }
    print(json.dumps(spent))


if __name__ == "__main__":
    main()
