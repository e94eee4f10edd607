"""Debian's packages: those that this machine needs, and those that images are made of."""

import os
import re
import shutil
import subprocess
from collections.abc import Iterable, Mapping
from pathlib import Path

from .console import timed
from .errors import MissingError

# What has no use in an image: all of it is for installing packages, which nobody does there.
NOT_IN_IMAGES = re.compile(r"perl|lib(perl|newt|slang|textwrap|debian-)|c?debconf|dpkg|install-info|tar$|iproute2")


def need(commands: Mapping[str, str]) -> None:
    """See to it that each command, or file by its absolute path, is there: install its package where it is not.

    Raises:
        MissingError: It is not there, and cannot be installed here.
    """
    lacking = {thing: package for thing, package in commands.items() if not _have(thing)}
    if not lacking:
        return
    packages = sorted(set(lacking.values()))
    if not shutil.which("apt-get") or os.geteuid() != 0:
        raise MissingError(
            f"This machine lacks {', '.join(sorted(lacking))}: install what Debian calls {' '.join(packages)} "
            "(as root on Debian it is installed by itself)."
        )
    with timed(f"installing {' '.join(packages)}"):
        _apt("install", "--yes", "--no-install-recommends", *packages)
    if still := sorted(thing for thing in lacking if not _have(thing)):
        raise MissingError(f"{' '.join(packages)} are installed, yet {', '.join(still)} is still not there.")


def unpack(packages: Iterable[str], root: Path, downloads: Path) -> None:
    """Unpack the packages and all that they depend on into `root`; no maintainer's script is run.

    Raises:
        MissingError: They cannot be had.
    """
    if not shutil.which("apt-get"):
        raise MissingError(
            "The images are made of Debian's packages, and there is no apt-get here: use a Debian machine."
        )
    downloads.mkdir(parents=True)
    _apt("download", *_closure(packages), cwd=downloads)
    for directory in ("bin", "sbin", "lib", "lib64"):  # a merged /usr, as base-files and debootstrap lay it
        (root / "usr" / directory).mkdir(parents=True, exist_ok=True)
        (root / directory).symlink_to(f"usr/{directory}")
    for archive in sorted(downloads.glob("*.deb")):
        _unpack_one(archive, root)


def _unpack_one(archive: Path, root: Path) -> None:
    with subprocess.Popen(["dpkg-deb", "--fsys-tarfile", archive], stdout=subprocess.PIPE) as reader:
        untar = ["tar", "--extract", "--keep-directory-symlink", "--directory", str(root)]
        subprocess.run(
            [*untar, "--exclude=./usr/share/doc", "--exclude=./usr/share/man"], stdin=reader.stdout, check=True
        )
    if reader.returncode != 0:
        raise MissingError(f"{archive.name} cannot be unpacked: dpkg-deb ended with status {reader.returncode}.")


def _closure(packages: Iterable[str]) -> list[str]:
    no = ("recommends", "suggests", "conflicts", "breaks", "replaces", "enhances")
    command = ["apt-cache", "depends", "--recurse", *(f"--no-{kind}" for kind in no), *packages]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:  # no package lists yet
        _apt("update")
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise MissingError(f"Debian's packages {' '.join(packages)} are not to be had: {done.stderr.strip()}")
    names = {line for line in done.stdout.splitlines() if re.match(r"[a-z0-9]", line) and ":" not in line}
    return sorted(name for name in names if not NOT_IN_IMAGES.match(name))


def _apt(*arguments: str, cwd: Path | None = None) -> None:
    """Run apt-get; where it fails, read the package lists anew and try once more."""
    environment = os.environ | {"DEBIAN_FRONTEND": "noninteractive"}
    command = ["apt-get", "--quiet", "--quiet", "--option=APT::Sandbox::User=root", *arguments]
    first = subprocess.run(command, env=environment, cwd=cwd, capture_output=True, check=False)
    if first.returncode == 0:
        return
    update = ["apt-get", "--quiet", "--quiet", "update"]
    subprocess.run(update, env=environment, capture_output=True, check=False)
    second = subprocess.run(command, env=environment, cwd=cwd, capture_output=True, text=True, check=False)
    if second.returncode != 0:
        raise MissingError(f"'{' '.join(command)}' failed: {second.stderr.strip()}")


def _have(thing: str) -> bool:
    return Path(thing).exists() if thing.startswith("/") else shutil.which(thing) is not None
