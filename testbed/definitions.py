"""Other projects' definitions of the kinds that our charts make objects of, so that a real API server judges these too.

They come out of Go modules, by version and sum as the programs do, but apart from them: another version of these
compiles nothing anew. No controller comes with them: that a route leads anywhere is not shown.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path

from embedded.errors import SetupError
from embedded.processes import run
from testbed.shelf import keep


@dataclass(frozen=True)
class Source:
    """A file of a module; `sum` is what go.sum would say of the module."""

    module: str
    version: str
    sum: str
    file: str


SOURCES = (
    Source(
        "sigs.k8s.io/gateway-api",
        "v1.6.3",  # the last one that this Go can unpack
        "h1:lKpJa5bGlraC/QeACvCpsHLdmO6y0iKfzVl6gzaFEYc=",
        "config/crd/standard/gateway.networking.k8s.io_tlsroutes.yaml",
    ),
    Source(
        "github.com/prometheus-operator/prometheus-operator",
        "v0.85.0",
        "h1:M5xLCLEoaW2IJfnuCwFzzpL+jSVQu3KGT84Pye+fW8s=",
        "example/prometheus-operator-crd/monitoring.coreos.com_servicemonitors.yaml",
    ),
)


def provide(cache: Path) -> Path:
    """Return the folder of the definitions, downloaded the first time (12 MB).

    Raises:
        SetupError: Go's words, or a module is not the one that we know.
    """
    return keep(cache, "definitions", [repr(SOURCES).encode()], _fetch)


def _fetch(folder: Path) -> None:
    for source in SOURCES:
        wanted = f"{source.module}@{source.version}"
        command = ["go", "mod", "download", "-json", wanted]
        answer = run(command, purpose=f"Fetching {wanted}", cwd=folder, env={**os.environ, "GOWORK": "off"})
        found = json.loads(answer)
        if found["Sum"] != source.sum:
            raise SetupError(f"{wanted} has the sum {found['Sum']}, and we know {source.sum}.")
        file = Path(found["Dir"], source.file)
        (folder / file.name).write_bytes(file.read_bytes())
