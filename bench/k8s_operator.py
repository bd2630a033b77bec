"""An operator on kopf that makes a tenant's objects for each custom resource, as somebody would write one in a day.

    kopf run -m bench.k8s_operator --standalone --all-namespaces

It applies the same objects by the same bare calls as the ceiling, which is kinder to it than kopf's own examples. It
posts no events and takes as many tenants at once as the bare client.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import kopf

from bench.k8s_bare import THREADS, Bare
from bench.k8s_peers import GROUP, PLURAL, TEMPLATE_VARIABLE, VERSION


@kopf.on.startup()
def configure(settings: kopf.OperatorSettings, memo: kopf.Memo, **_: Any) -> None:
    """Take as many at once as the others do, and make one client for all."""
    settings.execution.max_workers = THREADS
    settings.posting.enabled = False
    memo.bare = Bare(Path(os.environ["KUBECONFIG"]), Path(os.environ[TEMPLATE_VARIABLE]))


@kopf.on.create(GROUP, VERSION, PLURAL)
def create(name: str, memo: kopf.Memo, **_: Any) -> None:
    """Make the objects of the tenant that the resource is named after."""
    memo.bare.lay_down(name)
