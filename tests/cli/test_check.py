"""``devplugin check``: what is found is shown, and counts."""

import json
import signal
from pathlib import Path

import pytest

from tests.cli.conftest import Open, Run, Start

GOOD = """
from collections.abc import AsyncIterator
from devplugin import Allocation, Device, DevicePluginBase

class Good(DevicePluginBase):
    resource_name = "example.com/good"

    async def devices(self) -> AsyncIterator[list[Device]]:
        yield [Device("a", grants=Allocation(env={"A": "1"}))]
"""


def test_nothing_is_wrong(run: Run, folder: Path) -> None:
    """Status 0, and a sentence."""
    (folder / "good.py").write_text(GOOD)
    result = run("check", "good.py")
    assert (result.exit_code, result.output) == (0, "Nothing is wrong.\n")


def test_findings(run: Run) -> None:
    """Each with its code; why it matters and what to do is said once for a rule; status 1."""
    result = run("check", "seats.py")
    assert result.exit_code == 1
    lines = [line.rstrip() for line in result.output.splitlines()]
    assert "DP307 Seats, device seat-0: allocate() grants the device node /dev/host-seat0, which is not there." in lines
    assert "DP307 Seats, device seat-1: allocate() grants the device node /dev/host-seat1, which is not there." in lines
    assert lines.count("      Yield the device as unhealthy, or leave it out until it is seen for the first time.") == 1
    assert "      docs/reference/checks.md#dp307" in lines
    assert lines[-1] == f"{sum(line.startswith('DP') for line in lines)} found."


def test_what_is_ignored_is_said(run: Run) -> None:
    """With its reason."""
    codes = {line.split()[0] for line in run("check", "seats.py").output.splitlines() if line.startswith("DP")}
    reasons = [argument for code in sorted(codes) for argument in ("--ignore", f"{code}=no [bold]host[/] here = none")]
    result = run("check", "seats.py", *reasons)
    assert result.exit_code == 0
    assert "DP307 was not looked at: no [bold]host[/] here = none\n" in result.output
    assert result.output.endswith("Nothing is wrong.\n")


def test_json(run: Run) -> None:
    """One document; the status is the same."""
    result = run("check", "seats.py", "--ignore", "DP306=none here", "--output", "json")
    assert result.exit_code == 1
    document = json.loads(result.stdout)
    assert document["ignored"] == {"DP306": "none here"}
    assert {"code", "subject", "meaning", "why", "remedy", "documented_at"} == document["findings"][0].keys()
    assert {finding["code"] for finding in document["findings"]} >= {"DP307"}


def test_several_side_by_side(run: Run, folder: Path) -> None:
    """As on one node: two resources with one id."""
    (folder / "good.py").write_text(GOOD)
    (folder / "other.py").write_text(GOOD.replace("Good", "Other").replace("/good", "/other"))
    assert "DP207 Good and Other: both have a." in run("check", "good.py", "other.py").output


def test_paths_are_looked_for_where_the_host_is(run: Run, folder: Path) -> None:
    """Another root has the device nodes."""
    for number in "01":
        path = folder / "host" / "dev" / f"host-seat{number}"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    assert "DP307" not in run("check", "seats.py", "--host-root", "host").output


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["--ignore", "DP306"], "'DP306' has no reason: say DP306='why it does not matter here'."),
        (["--ignore", "DP306="], "DP306 is to be ignored without a reason"),
        (["--ignore", "DP1=x"], "there is no rule 'DP1' to ignore"),
        (["--host-root", "nowhere"], "Directory 'nowhere' does not exist"),
        (["--kubernetes", "1.2"], "'1.2' is not one of"),
        (["nothing.py"], "There is no file nothing.py."),
    ],
)
def test_wrong_use(run: Run, arguments: list[str], complaint: str) -> None:
    """A sentence, and status 2."""
    result = run("check", "seats.py", *arguments)
    assert (result.exit_code, result.stdout) == (2, "")
    assert complaint in " ".join(result.stderr.split())


SLOW = GOOD.replace("        yield", "        await __import__('asyncio').sleep(3600)\n        yield")


def test_a_signal_ends_it(folder: Path, start: Start, terminal: Open) -> None:
    """With a shell's status, and without a traceback; on a terminal it says meanwhile that it is at work."""
    (folder / "slow.py").write_text(SLOW)
    with terminal("check", "slow.py") as shown:
        shown.expect("checking: this takes some seconds")
        shown.press("\x03")
        assert shown.end() == 130
        assert "Traceback" not in shown.text()
    (folder / "slow.py").write_text(SLOW.replace("        await", "        print('begun', flush=True)\n        await"))
    with start("check", "slow.py", "--output", "json") as process:
        assert process.stderr is not None
        assert process.stderr.readline() == "begun\n"
        process.send_signal(signal.SIGTERM)
        output, complaints = process.communicate(timeout=20)
    assert (process.returncode, output, complaints) == (130, "", "")
