"""Start Kubernetes' own sample plugin: ``python isolated.py KUBELET_DIR PROGRAM``.

It knows only the standard directory, and writes to /tmp. So it sees KUBELET_DIR in the standard place and a /tmp of its own,
in a mount namespace that ends with it. A line on standard output says when the program itself began, in nanoseconds of
the monotonic clock. Its process is this one.
"""

import ctypes
import os
import sys
import time
from pathlib import Path

_STANDARD = Path("/var/lib/kubelet/device-plugins")
_CLONE_NEWNS, _CLONE_NEWUSER = 0x0002_0000, 0x1000_0000
_MS_BIND, _MS_REC, _MS_PRIVATE = 0x1000, 0x4000, 0x4_0000
_libc = ctypes.CDLL(None, use_errno=True)


def main(directory: str, program: str) -> None:
    executable = os.open(program, os.O_RDONLY)
    _unshare()
    _mount(None, Path("/"), None, _MS_REC | _MS_PRIVATE)
    seen = os.open(directory, os.O_PATH)
    if not _STANDARD.exists():
        _mount("tmpfs", next(parent for parent in _STANDARD.parents if parent.exists()), "tmpfs", 0)
        _STANDARD.mkdir(parents=True)
    _mount(f"/proc/self/fd/{seen}", _STANDARD, None, _MS_BIND)
    _mount("tmpfs", Path("/tmp"), "tmpfs", 0)
    os.chdir("/")
    print(time.monotonic_ns(), flush=True)
    os.execve(executable, [program], dict(os.environ))


def _unshare() -> None:
    user, group = os.geteuid(), os.getegid()
    flags = _CLONE_NEWNS if user == 0 else _CLONE_NEWNS | _CLONE_NEWUSER
    if _libc.unshare(flags) < 0:
        raise _error("no mount namespace of its own can be had")
    if user != 0:
        Path("/proc/self/setgroups").write_text("deny")
        Path("/proc/self/uid_map").write_text(f"{user} {user} 1")
        Path("/proc/self/gid_map").write_text(f"{group} {group} 1")


def _mount(source: str | None, target: Path, kind: str | None, flags: int) -> None:
    parts = [part and part.encode() for part in (source, str(target), kind)]
    if _libc.mount(*parts, ctypes.c_ulong(flags), None) < 0:
        raise _error(f"cannot mount on {target}")


def _error(what: str) -> OSError:
    number = ctypes.get_errno()
    return OSError(number, f"{what}: {os.strerror(number)}")


if __name__ == "__main__":
    main(*sys.argv[1:])
