"""Write container images as one archive of the Open Container Initiative's layout. Standard library only.

Layers are stored uncompressed: they travel from this disk to this disk, and so a layer's digest is that of its blob.
Images that share a layer share the blob.
"""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

LAYER = "application/vnd.oci.image.layer.v1.tar"
CONFIG = "application/vnd.oci.image.config.v1+json"
MANIFEST = "application/vnd.oci.image.manifest.v1+json"
SYSTEM_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


@dataclass(frozen=True)
class Image:
    """What an image is made of, and how its program is started."""

    name: str
    layers: Sequence[Path]
    entrypoint: Sequence[str] = ()
    command: Sequence[str] = ()
    user: str = ""
    folder: str = "/"
    variables: Mapping[str, str] = field(default_factory=dict)

    def configuration(self, digests: Sequence[str]) -> dict[str, Any]:
        """Return the image's configuration with its layers' digests."""
        variables = {"PATH": SYSTEM_PATH, **self.variables}
        return {
            "architecture": "amd64",
            "os": "linux",
            "config": {
                "Env": [f"{name}={value}" for name, value in variables.items()],
                "WorkingDir": self.folder,
                "User": self.user,
                "Entrypoint": list(self.entrypoint),
                "Cmd": list(self.command),
            },
            "rootfs": {"type": "layers", "diff_ids": digests},
        }


def write_layer(
    target: Path, contents: Iterable[tuple[Path, str]], *, folders: Mapping[str, int] | None = None
) -> Path:
    """Write a layer of files and trees, each with its place in the image; the same contents give the same bytes.

    `folders` are empty ones, each with the user and group that owns it; all else is root's.
    """
    with tarfile.open(target, "w", format=tarfile.PAX_FORMAT) as layer:
        for source, place in contents:
            for path in (source, *sorted(source.rglob("*"))):
                inside = f"{place}/{path.relative_to(source)}" if path != source else place
                _add(layer, path, inside.lstrip("/"))
        for place, owner in (folders or {}).items():
            member = tarfile.TarInfo(place.lstrip("/"))
            member.type, member.mode, member.uid, member.gid = tarfile.DIRTYPE, 0o775, owner, owner
            layer.addfile(member)
    return target


def _add(layer: tarfile.TarFile, path: Path, place: str) -> None:
    member = layer.gettarinfo(path, place)
    if member.islnk():  # the same file twice in the tree: written twice, which every reader understands
        member.type, member.size, member.linkname = tarfile.REGTYPE, path.stat().st_size, ""
    member.uid = member.gid = 0
    member.uname = member.gname = ""
    member.mtime = 0
    if not member.isreg():
        layer.addfile(member)
        return
    with path.open("rb") as content:
        layer.addfile(member, content)


def write_archive(target: Path, images: Iterable[Image]) -> None:
    """Write these images into one archive that containerd imports."""
    digests: dict[Path, str] = {}
    manifests = []
    with tarfile.open(target, "w") as archive:
        _put(archive, "oci-layout", json.dumps({"imageLayoutVersion": "1.0.0"}).encode())
        for image in images:
            for layer in image.layers:
                if layer not in digests:
                    digests[layer] = _put_file(archive, layer)
            manifests.append(_put_image(archive, image, digests))
        _put(archive, "index.json", json.dumps({"schemaVersion": 2, "manifests": manifests}).encode())


def _put_image(archive: tarfile.TarFile, image: Image, digests: Mapping[Path, str]) -> dict[str, Any]:
    configuration = image.configuration([digests[layer] for layer in image.layers])
    layers = [_describe(LAYER, digests[layer], layer.stat().st_size) for layer in image.layers]
    config = _put_json(archive, CONFIG, configuration)
    manifest = {"schemaVersion": 2, "mediaType": MANIFEST, "config": config, "layers": layers}
    names = {"io.containerd.image.name": image.name, "org.opencontainers.image.ref.name": image.name.rpartition(":")[2]}
    return {**_put_json(archive, MANIFEST, manifest), "annotations": names}


def _describe(kind: str, digest: str, size: int) -> dict[str, Any]:
    return {"mediaType": kind, "digest": digest, "size": size}


def _put_json(archive: tarfile.TarFile, kind: str, value: Any) -> dict[str, Any]:
    content = json.dumps(value, sort_keys=True).encode()
    sha256 = hashlib.sha256(content).hexdigest()
    if f"blobs/sha256/{sha256}" not in archive.getnames():
        _put(archive, f"blobs/sha256/{sha256}", content)
    return _describe(kind, f"sha256:{sha256}", len(content))


def _put_file(archive: tarfile.TarFile, path: Path) -> str:
    with path.open("rb") as content:
        sha256 = hashlib.file_digest(content, "sha256").hexdigest()
        content.seek(0)
        member = tarfile.TarInfo(f"blobs/sha256/{sha256}")
        member.size = path.stat().st_size
        archive.addfile(member, content)
    return f"sha256:{sha256}"


def _put(archive: tarfile.TarFile, name: str, content: bytes) -> None:
    member = tarfile.TarInfo(name)
    member.size = len(content)
    archive.addfile(member, io.BytesIO(content))
