"""Every module that the import contract calls pure has a test file of its own."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


def pure_modules() -> list[str]:
    """The modules of the contract “The core is pure”, packages taken apart."""
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    named = next(contract["source_modules"] for contract in contracts if contract["name"] == "The core is pure")
    return [module for name in named for module in _modules_of(name)]


def _modules_of(name: str) -> list[str]:
    folder = ROOT / name.replace(".", "/")
    if not folder.is_dir():
        return [name]
    return [f"{name}.{path.stem}" for path in sorted(folder.glob("*.py")) if path.stem != "__init__"]


@pytest.mark.parametrize("module", pure_modules())
def test_a_pure_module_has_its_test_file(module: str) -> None:
    *packages, name = module.split(".")
    expected = ROOT / "tests" / Path(*packages) / f"test_{name}.py"
    assert expected.is_file(), f"{module} is pure, so it is tested on its own: write {expected.relative_to(ROOT)}"
