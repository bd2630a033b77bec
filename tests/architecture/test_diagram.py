"""The diagram in docs/architecture.md is the import contracts, drawn."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
Layers = list[frozenset[str]]


def contracts() -> list[Layers]:
    """The layers of each contract of that kind, outermost first, in pyproject.toml's order."""
    linter = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]
    return [[_names(line) for line in one["layers"]] for one in linter["contracts"] if one["type"] == "layers"]


def diagram() -> list[Layers]:
    """The chains of the document's first drawing that have more than one link, in its order."""
    drawing = re.search(r"```text\n(.*?)```", (ROOT / "docs/architecture.md").read_text(), re.DOTALL)
    assert drawing, "docs/architecture.md has no drawing"
    chains = re.sub(r"\s*->\s*", " -> ", drawing[1]).split("\n")
    return [[_names(link) for link in chain.split(" -> ")] for chain in chains if " -> " in chain]


def _names(line: str) -> frozenset[str]:
    return frozenset(re.findall(r"\w+", line))


def test_the_diagram_and_the_contracts_agree() -> None:
    assert diagram() == contracts()
