from __future__ import annotations

import json
import tarfile
from pathlib import Path

from testbed.oci import Image, write_archive, write_layer


def tree(folder: Path) -> Path:
    (folder / "bin").mkdir(parents=True)
    (folder / "bin" / "start").write_text("#!/bin/sh\n")
    (folder / "bin" / "start").chmod(0o755)
    (folder / "bin" / "again").symlink_to("start")
    return folder


def test_the_same_contents_give_the_same_layer(tmp_path: Path) -> None:
    layers = [
        write_layer(tmp_path / f"{name}.tar", [(tree(tmp_path / name), "/opt/engine")], folders={"/data": 1001})
        for name in ("one", "two")
    ]
    assert layers[0].read_bytes() == layers[1].read_bytes()


def test_a_layer_belongs_to_root_but_for_the_folders_that_are_another_s(tmp_path: Path) -> None:
    layer = write_layer(tmp_path / "layer.tar", [(tree(tmp_path / "tree"), "/opt/engine")], folders={"/data": 1001})
    with tarfile.open(layer) as content:
        owners = {member.name: (member.uid, member.mode & 0o777) for member in content}
    assert owners["opt/engine/bin/start"] == (0, 0o755)
    assert owners["data"] == (1001, 0o775)
    assert "opt/engine/bin/again" in owners


def test_images_share_a_layer_and_carry_their_names(tmp_path: Path) -> None:
    layer = write_layer(tmp_path / "layer.tar", [(tree(tmp_path / "tree"), "/opt")])
    images = [Image("localhost/one:1", [layer], user="1001:1001"), Image("localhost/two:2", [layer])]
    write_archive(tmp_path / "images.tar", images)
    with tarfile.open(tmp_path / "images.tar") as archive:
        names = archive.getnames()
        index_file = archive.extractfile("index.json")
        assert index_file
        index = json.load(index_file)
    assert len(names) == len(set(names))
    assert [one["annotations"]["io.containerd.image.name"] for one in index["manifests"]] == [
        one.name for one in images
    ]
    # One layer, and a configuration and a manifest for each.
    assert sum(1 for name in names if name.startswith("blobs/")) == 5
