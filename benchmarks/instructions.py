"""How many instructions things take, counted by callgrind: the same number on a busy machine as on an idle one.

The whole plugin runs under callgrind, and its counters are taken before and after what is counted.
"""

import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from .environments import PLUGINS, NotToBeHad
from .peers import AIO, DEVPLUGIN, Peer, Plugin, stage
from .processes import BenchmarkError
from .results import Results

_CALLS = 100
_FLAPS = 5
_DEVICES = 10_000
_MILLION = 1e6


def measure(results: Results, peers: Sequence[Peer]) -> None:
    if not shutil.which("callgrind_control"):
        raise NotToBeHad("instructions are counted by valgrind, which is not on the PATH")
    for peer in peers:
        with _counted(peer, devices=4) as (plugin, taken):
            results.add("start_instructions", peer, taken() / _MILLION)
            plugin.allocate(_CALLS)  # the first ones do more
            taken()
            plugin.allocate(_CALLS)
            results.add("allocate_instructions", peer, taken() / _CALLS / 1e3)
        with _counted(peer, devices=_DEVICES) as (plugin, taken):
            _flap(plugin)
            taken()
            _flap(plugin)
            results.add("change_instructions", peer, taken() / _FLAPS / _MILLION)
    for peer, script in ((DEVPLUGIN, "encode_devplugin.py"), (AIO, "encode_protobuf.py")):
        if peer in peers:
            counts = [_of_program(peer.python(), PLUGINS / script, devices) for devices in (1_000, 3_000)]
            results.add("encode_instructions", peer, (counts[1] - counts[0]) / 2_000)


class Counters:
    """Those of one process under callgrind."""

    def __init__(self, pid: int, file: Path) -> None:
        self._pid = pid
        self._file = file
        self._dumps = 0

    def __call__(self) -> int:
        """How many instructions there were since the last time."""
        self._dumps += 1
        command = ["callgrind_control", "--dump", str(self._pid)]
        said = subprocess.run(command, check=True, capture_output=True, text=True).stdout
        dumped = self._file.with_name(f"{self._file.name}.{self._dumps}")
        if not dumped.exists():
            raise BenchmarkError(f"callgrind wrote no {dumped}: {said}")
        return _total(dumped)


@contextmanager
def _counted(peer: Peer, devices: int) -> Iterator[tuple[Plugin, Counters]]:
    with tempfile.TemporaryDirectory(prefix="devplugin-bench-") as work, stage() as together:
        file = Path(work) / "callgrind"
        plugin = together.start(peer, devices=devices, wrapper=_callgrind(file))
        yield plugin, Counters(plugin.process.pid, file)


def _flap(plugin: Plugin) -> None:
    plugin.forget_lists()
    for _ in range(_FLAPS):
        plugin.process.say("flap")
        plugin.next_list(timeout_s=600)


def _callgrind(file: Path) -> list[str | Path]:
    return ["valgrind", "--quiet", "--tool=callgrind", f"--callgrind-out-file={file}"]


def _of_program(python: Path, script: Path, devices: int) -> int:
    with tempfile.TemporaryDirectory(prefix="devplugin-bench-") as work:
        file = Path(work) / "callgrind"
        command = [*_callgrind(file), python, script, str(devices)]
        subprocess.run(command, check=True, env={"PYTHONHASHSEED": "0", "LANG": "C.UTF-8"})
        return _total(file)


def _total(file: Path) -> int:
    for line in file.read_text().splitlines():
        if line.startswith("totals:"):
            return int(line.split()[1])
    raise BenchmarkError(f"no total in {file}")
