"""OCI images made of folders, each in a folder that a registry can serve as it is."""

import hashlib
import io
import json
import tarfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

MANIFEST = "application/vnd.oci.image.manifest.v1+json"
CONFIG = "application/vnd.oci.image.config.v1+json"
LAYER = "application/vnd.oci.image.layer.v1.tar"
EPOCH = "1970-01-01T00:00:00Z"  # the same content gives the same digest


def write(target: Path, layers: Sequence[bytes], *, entrypoint: Sequence[str], **config: object) -> None:
    """Write the image of the layers: blobs named by their digests, and `manifest`.

    Args:
        target: The folder to make.
        layers: What `layer` gives, the lowest first.
        entrypoint: The command.
        config: More of the image's configuration, by the names of the OCI specification (`User`, `StopSignal`, …).
    """
    target.mkdir()
    blobs = [_blob(target, content) for content in layers]
    environment = ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"]
    description = {
        "architecture": "amd64",
        "os": "linux",
        "created": EPOCH,
        "config": {"Env": environment, "Entrypoint": list(entrypoint), **config},
        "rootfs": {"type": "layers", "diff_ids": [blob["digest"] for blob in blobs]},
        "history": [{"created": EPOCH}],
    }
    manifest = {
        "schemaVersion": 2,
        "mediaType": MANIFEST,
        "config": {"mediaType": CONFIG, **_blob(target, _json(description))},
        "layers": [{"mediaType": LAYER, **blob} for blob in blobs],
    }
    (target / "manifest").write_bytes(_json(manifest))


def digest_of(content: bytes) -> str:
    return f"sha256:{hashlib.sha256(content).hexdigest()}"


def _blob(target: Path, content: bytes) -> Mapping[str, Any]:
    digest = digest_of(content)
    (target / digest).write_bytes(content)
    return {"digest": digest, "size": len(content)}


def layer(root: Path) -> bytes:
    """The folder as a layer; everything belongs to root there."""

    def owned_by_root(info: tarfile.TarInfo) -> tarfile.TarInfo:
        info.uid = info.gid = info.mtime = 0
        info.uname = info.gname = ""
        return info

    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        archive.add(root, arcname=".", filter=owned_by_root)
    return buffer.getvalue()


def _json(value: object) -> bytes:
    return json.dumps(value, sort_keys=True).encode()
