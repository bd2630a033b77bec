"""Engine clusters as processes of this machine.

The default backend in development, and good for one machine in production. What lies where below the region's home:

    engines/<cluster id>/     all of one cluster, and of its first broker: see below
      broker-<n>/             a further broker: the same files again
      entrance/               the process that leads clients to several brokers: entrance.py, routes.json, engine.json
      tls/, log4j2.xml        what all brokers share
      card.json               who this is, for the day on which its row is lost
      rebalanced.json, backup.json   which starts the last rebalance came after; the backup that was asked for last
    guards/<cluster id>.*     the fence (highest epoch seen), the locks of brokers, entrance and restores. The
                              fence and the first lock outlive the cluster, or a worker that overslept its deletion
                              could bring it back.
    keys/                     public token keys that the engines read (docs/adr/0003)
    register.json             what the region remembers of the account database
    releases/<sha256>.json    how far the preparation of a release has come
    waiting/<cluster id>      clusters to wake when their release makes progress
    trash/                    folders on their way out

A broker's own: data/, log/, tmp/ (the engine user's), engine.json (what was launched), sight.json (the watch's last
look), ports.json, stopping.json; contents.json (what is in data/ and former/), former/ (data from before a restore or
an upgrade), copying/ (becomes former/), discarded/ (on its way out), incoming/ with restore.json and restoring/ (data
that is being fetched from a backup, and the program at work on it). And below the cache: engines/<sha256>/, a release
unpacked and its class archives, shared by all regions of the machine.

Reading order: `settings`, `layout`, `backend`; then `starting` with `launch`, `process` and `record` (docs/adr/0004),
`contents` and `entrance` (0008), `admission`, `ending`; `observing` and `watch` (what an engine says is judged in
`backends.engine`, which all backends share); `release` with `fetch` and `warmup`; `backups`, `restoring` and `journal`
(0009); `inventory`.
"""

from provisioning.backends.local.backend import LocalBackend
from provisioning.backends.local.layout import create_region
from provisioning.backends.local.settings import LocalSettings

__all__ = ["LocalBackend", "LocalSettings", "create_region"]
