"""The product's own settings, with the bare views beside its addresses: both sides in one process."""

from __future__ import annotations

from config.settings import *  # noqa: F403 - all of them

ROOT_URLCONF = "bench.bare"
