"""Engine clusters as processes of this machine.

The default backend in development, and good for one machine in production. What lies where below the region's home:

    engines/<cluster id>/     all of one cluster: data/, log/, tmp/, tls/, engine.json (what was launched), sight.json
                              (the watch's last look), ports.json, stopping.json
    guards/<cluster id>.*     the fence (highest epoch seen) and the lock that a running engine holds. They outlive the
                              cluster, or a worker that overslept its deletion could bring it back.
    keys/                     public token keys that the engines read (docs/adr/0003)
    releases/<sha256>.json    how far the preparation of a release has come
    waiting/<cluster id>      clusters to wake when their release makes progress
    trash/                    folders on their way out

and below the cache: engines/<sha256>/, a release unpacked and its class archives, shared by all regions of the machine.

Reading order: `settings`, `layout`, `backend`; then `launch` with `process` (docs/adr/0004), `release` with `fetch` and
`warmup`, `admission`, `health` with `watch`.
"""

from provisioning.backends.local.backend import LocalBackend
from provisioning.backends.local.layout import create_region
from provisioning.backends.local.settings import LocalSettings

__all__ = ["LocalBackend", "LocalSettings", "create_region"]
