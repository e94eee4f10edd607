"""``devplugin try`` without a prompt: what is shown, what is started, and how it ends."""

import asyncio
import json
import os
import signal
from functools import partial
from pathlib import Path

import pytest

from devplugin.cli import _try
from tests.cli.conftest import Open, Run, Start, Terminal

pytestmark = pytest.mark.usefixtures("nothing_left")

DEVICES = """\
example.com/seat: 3 devices
DEVICE   HEALTH      NUMA
seat-0   Healthy     1
seat-1   Healthy
seat-2   Unhealthy
"""


def stripped(text: str) -> str:
    return "".join(f"{line.rstrip()}\n" for line in text.splitlines())


def plugin(folder: Path, name: str, body: str) -> None:
    """A plugin of one device, with these lines in its class."""
    lines = "\n".join(f"    {line}" for line in body.splitlines())
    (folder / name).write_text(
        "import asyncio, time\nfrom devplugin import *\n\nclass Mine(DevicePluginBase):\n    resource_name = 'a/b'\n"
        f"    async def devices(self):\n        yield [Device('a')]\n{lines}\n"
    )


def test_the_devices(run: Run) -> None:
    """Where there is no terminal it shows them once, and ends."""
    result = run("try", "seats.py")
    assert (result.exit_code, stripped(result.output)) == (0, f"{DEVICES}\n")


def test_no_devices(run: Run, folder: Path) -> None:
    """There is no table then."""
    plugin(folder, "none.py", "async def devices(self):\n    yield []")
    assert run("try", "none.py").output == "a/b: 0 devices\n\n"


def test_what_a_container_gets(run: Run) -> None:
    """All that an answer can have, as the container sees it."""
    result = run("try", "seats.py", "--allocate", "1")
    number = "0" if "has seat-0" in result.output else "1"
    assert (result.exit_code, stripped(result.output)) == (
        0,
        f"""{DEVICES}
pod-1 has seat-{number}
   GETS          IN THE CONTAINER          FROM THE HOST
   variable      SEAT_{number}=taken
   mount         /lib/seat                 /usr/lib/seat     read-only
   mount         /run/seat                 /run/host-seat
   device node   /dev/seat{number}                /dev/host-seat{number}   rw
   annotation    example.com/by=seats
   CDI device    example.com/seat=seat-{number}
""",
    )


def test_a_container_that_gets_nothing_else(run: Run, folder: Path) -> None:
    """It is said."""
    plugin(folder, "plain.py", "")
    assert "pod-1 has a; its container gets nothing else\n" in run("try", "plain.py", "--allocate", "1").output


def test_a_refused_pod(run: Run) -> None:
    """The sentence that its owner reads, and status 1."""
    result = run("try", "seats.py", "--allocate", "2")
    assert result.exit_code == 1
    assert (
        "pod-1 is UnexpectedAdmissionError: Pod was rejected: Allocate failed due to rpc error: code = "
        in result.output
    )
    assert "one seat is enough" in result.output


def test_several_pods_side_by_side(run: Run) -> None:
    """Each has its own devices; the one too many is not scheduled."""
    result = run("try", "seats.py", "--allocate", "1", "--allocate", "1", "--allocate", "1")
    assert result.exit_code == 1
    assert "pod-1 has seat-" in result.output
    assert "pod-2 has seat-" in result.output
    assert "pod-3 is Pending: 0/1 nodes are available: 1 Insufficient example.com/seat." in result.output


def test_pods_one_after_the_other(run: Run) -> None:
    """With --free each pod's devices are there for the next one."""
    result = run("try", "seats.py", *["--allocate", "1"] * 3, "--free", "--output", "json")
    assert result.exit_code == 0
    assert [pod["status"] for pod in json.loads(result.stdout)["pods"]] == ["Running"] * 3


def test_a_container_that_cannot_start(run: Run, folder: Path) -> None:
    """The error of PreStartContainer."""
    plugin(
        folder, "unready.py", "async def pre_start_container(self, devices):\n    raise AllocationError('no firmware')"
    )
    result = run("try", "unready.py", "--allocate", "1")
    assert result.exit_code == 1
    assert "pod-1 is CreateContainerConfigError: " in result.output
    assert "no firmware" in result.output


def test_an_older_kubernetes(run: Run) -> None:
    """Its words are others."""
    result = run("try", "seats.py", "--allocate", "2", "--kubernetes", "1.20")
    assert "pod-1 is UnexpectedAdmissionError: Pod Allocate failed due to" in result.output


def test_json(run: Run) -> None:
    """One document; the status is the same."""
    result = run("try", "seats.py", "--allocate", "2", "--allocate", "1", "--output", "json")
    assert result.exit_code == 1
    document = json.loads(result.stdout)
    assert document["resource"] == "example.com/seat"
    assert document["options"] == {"pre_start_required": False, "get_preferred_allocation_available": False}
    assert document["devices"] == [
        {"id": "seat-0", "health": "Healthy", "numa_nodes": [1]},
        {"id": "seat-1", "health": "Healthy", "numa_nodes": []},
        {"id": "seat-2", "health": "Unhealthy", "numa_nodes": []},
    ]
    second, first = document["pods"]
    number = first["devices"][0][-1]
    assert first == {
        "pod": "pod-2",
        "status": "Running",
        "refused": None,
        "devices": [f"seat-{number}"],
        "environment": {f"SEAT_{number}": "taken"},
        "mounts": [
            {"container_path": "/lib/seat", "host_path": "/usr/lib/seat", "read_only": True},
            {"container_path": "/run/seat", "host_path": "/run/host-seat", "read_only": False},
        ],
        "device_nodes": [
            {"container_path": f"/dev/seat{number}", "host_path": f"/dev/host-seat{number}", "permissions": "rw"}
        ],
        "annotations": {"example.com/by": "seats"},
        "cdi_devices": [f"example.com/seat=seat-{number}"],
    }
    assert (second["status"], second["devices"], second["environment"]) == ("UnexpectedAdmissionError", [], {})
    assert second["refused"].endswith("one seat is enough, which is unexpected")


@pytest.mark.parametrize("arguments", [("--output", "json"), ("--", "true"), ()])
def test_what_the_plugin_prints_is_not_the_output(
    run: Run, start: Start, folder: Path, arguments: tuple[str, ...]
) -> None:
    """Programs read the one, people the other."""
    plugin(
        folder, "loud.py", "print('imported')\nasync def devices(self):\n    print('asked')\n    yield [Device('a')]"
    )
    with start("try", "loud.py", *arguments) as process:
        output, others = process.communicate(timeout=20)
    assert process.returncode == 0
    assert "imported\nasked\n" in others
    assert "imported" not in output
    assert "asked" not in output
    assert "imported" not in run("manifest", "loud.py", "--image", "x").stdout


# A program with what was allocated -----------------------------------------------------------------------------------------


def test_a_program(start: Start) -> None:
    """Its output is all there is on standard output, its status is passed on, and it has the variables."""
    with start("try", "seats.py", "--", "sh", "-c", 'echo "$SEAT_0$SEAT_1, $HOME"; exit 7') as process:
        output, shown = process.communicate(timeout=20)
    assert process.returncode == 7
    assert output.startswith("taken, /")
    assert "pod-1 has seat-" in shown


def test_a_program_with_more_devices(start: Start, folder: Path) -> None:
    """--allocate says how many."""
    plugin(
        folder,
        "two.py",
        "async def devices(self):\n    yield [Device(n, grants=Allocation(env={n: '1'})) for n in 'AB']",
    )
    with start("try", "two.py", "--allocate", "2", "--", "sh", "-c", "echo $A$B") as process:
        output, _ = process.communicate(timeout=20)
    assert (process.returncode, output) == (0, "11\n")


def test_no_program_without_devices(start: Start) -> None:
    """It is not started when the pod is refused."""
    with start("try", "seats.py", "--allocate", "2", "--", "echo", "started") as process:
        output, shown = process.communicate(timeout=20)
    assert (process.returncode, output) == (1, "")
    assert "one seat is enough" in shown


@pytest.mark.parametrize(
    ("name", "status", "said"),
    [
        ("no-such-program", 127, "There is no program no-such-program."),
        ("./seats.py", 126, "cannot be started: Permission"),
    ],
)
def test_a_program_that_cannot_be_started(start: Start, name: str, status: int, said: str) -> None:
    """A shell's statuses."""
    with start("try", "seats.py", "--", name) as process:
        output, shown = process.communicate(timeout=20)
    assert (process.returncode, output) == (status, "")
    assert said in shown


def test_a_program_that_is_killed(start: Start) -> None:
    """A shell's status for a signal."""
    with start("try", "seats.py", "--", "sh", "-c", "kill -9 $$") as process:
        process.communicate(timeout=20)
    assert process.returncode == 128 + 9


# A second signal does not disturb its end: one that comes while it is being started can reach it twice at a terminal.
ENDS_WELL = "trap 'trap \"\" INT TERM; echo ended; exit 5' INT TERM; echo begun; while :; do sleep 0.1; done"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_is_the_programs(start: Start, number: signal.Signals) -> None:
    """It ends as it likes to, and its status is passed on."""
    with start("try", "seats.py", "--", "sh", "-c", ENDS_WELL) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "begun\n"
        process.send_signal(number)
        output, shown = process.communicate(timeout=20)
    assert (process.returncode, output) == (5, "ended\n")
    assert "Traceback" not in shown


@pytest.mark.asyncio
async def test_a_signal_while_the_program_is_being_started() -> None:
    """It is the program's as soon as that is there; one that is ignored stays so."""
    before = {
        signal.SIGINT: signal.signal(signal.SIGINT, signal.SIG_IGN),
        signal.SIGTERM: signal.signal(signal.SIGTERM, signal.default_int_handler),
    }
    try:
        with _try._Signals() as signals:
            assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
            os.kill(os.getpid(), signal.SIGTERM)
            program = await asyncio.create_subprocess_exec("sleep", "60")
            signals.go_to(program)
            assert await program.wait() == -signal.SIGTERM
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@pytest.mark.asyncio
async def test_an_interrupt_at_a_terminal_is_not_passed_on(monkeypatch: pytest.MonkeyPatch) -> None:
    """The terminal has sent it to the program already."""
    main, other = os.openpty()
    handlers = {number: signal.signal(number, signal.default_int_handler) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        with os.fdopen(other) as stdin, _try._Signals() as signals:
            monkeypatch.setattr("sys.stdin", stdin)
            program = await asyncio.create_subprocess_exec("sleep", "60")
            signals.go_to(program)
            os.kill(os.getpid(), signal.SIGINT)
            os.kill(os.getpid(), signal.SIGTERM)
            assert await program.wait() == -signal.SIGTERM
    finally:
        os.close(main)
        for number, handler in handlers.items():
            signal.signal(number, handler)


def test_an_interrupt_at_a_terminal_is_the_programs(terminal: Open) -> None:
    """The terminal sends it to both, and the program ends as it likes to."""
    with terminal("try", "seats.py", "--", "sh", "-c", ENDS_WELL) as shown:
        shown.expect("begun")
        shown.press("\x03")
        assert shown.end() == 5
    assert "ended" in shown.text()


def test_a_plugin_that_ends_takes_the_program_with_it(start: Start, folder: Path) -> None:
    """Also one that would rather stay: the plugin's own error is the end."""
    plugin(
        folder, "ends.py", "async def devices(self):\n    yield [Device('a')]\n    await asyncio.sleep(1.5)\n    1 / 0"
    )
    with start("try", "ends.py", "--", "sh", "-c", "trap 'echo asked' TERM; while :; do sleep 0.1; done") as process:
        output, shown = process.communicate(timeout=30)
    assert (process.returncode, output) == (1, "asked\n")
    assert shown.endswith("ZeroDivisionError: division by zero\n")


# What goes wrong ------------------------------------------------------------------------------------------------------------


def test_a_plugin_that_fails(run: Run, folder: Path) -> None:
    """The author's traceback, and status 1."""
    plugin(folder, "fails.py", "async def devices(self):\n    raise OSError('no driver')\n    yield []")
    result = run("try", "fails.py")
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr.startswith(
        "Error: Mine ended, as it would on a node, with this error:\n\nTraceback (most recent call"
    )
    assert result.stderr.endswith("OSError: no driver\n")
    frames = [line for line in result.stderr.splitlines() if line.startswith("  File")]
    assert frames == [f'  File "{folder}/fails.py", line 9, in devices']


def test_a_plugin_that_is_not_usable(run: Run, folder: Path) -> None:
    """A sentence without a traceback, where devplugin has one."""
    plugin(folder, "wrong.py", "resource_name = 'wrong'")
    result = run("try", "wrong.py")
    assert result.exit_code == 1
    assert result.stderr.startswith("Error: resource name 'wrong' is not usable")


def test_a_plugin_that_is_late(run: Run, folder: Path) -> None:
    """It says what may be the reason."""
    plugin(folder, "late.py", "async def devices(self):\n    await asyncio.sleep(3600)\n    yield []")
    result = run("try", "late.py", "--within", "0.5")
    assert result.exit_code == 1
    assert "the plugin has announced no devices within 0.5 s: " in result.stderr


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["--allocate", "0"], "0 is not in the range x>=1"),
        (["--allocate", "many"], "'many' is not a valid integer"),
        (["--within", "0"], "0.0 is not in the range x>0"),
        (["--kubernetes", "1.2"], "'1.2' is not one of"),
        (["--output", "json", "--", "env"], "A program and --output json would both write to standard output"),
        (["--allocate", "1", "--allocate", "1", "--", "env"], "A program is one container: say --allocate once."),
    ],
)
def test_wrong_use(run: Run, arguments: list[str], complaint: str) -> None:
    """A sentence, status 2, and nothing is started."""
    result = run("try", "seats.py", *arguments)
    assert (result.exit_code, result.stdout) == (2, "")
    assert complaint in result.stderr


HANGS = {
    "while it is imported": "import time\nprint('begun', flush=True)\ntime.sleep(3600)\n",
    "while it waits for the first list": "async def devices(self):\n    print('begun', flush=True)\n"
    "    await asyncio.sleep(3600)\n    yield []",
    "while the kubelet allocates": "async def allocate(self, devices):\n    print('begun', flush=True)\n"
    "    await asyncio.sleep(3600)",
}


@pytest.mark.parametrize(
    ("moment", "number"),
    [
        ("while it is imported", signal.SIGINT),
        ("while it waits for the first list", signal.SIGINT),
        ("while it waits for the first list", signal.SIGHUP),
        ("while the kubelet allocates", signal.SIGTERM),
    ],
)
def test_a_signal_at_any_moment(
    request: pytest.FixtureRequest, start: Start, folder: Path, moment: str, number: signal.Signals
) -> None:
    """Status 130, nothing said, nothing left."""
    request.addfinalizer(partial(signal.signal, number, signal.signal(number, signal.SIG_DFL)))  # nohup ignores SIGHUP
    if moment == "while it is imported":
        (folder / "hangs.py").write_text(HANGS[moment])
    else:
        plugin(folder, "hangs.py", HANGS[moment])
    with start("try", "hangs.py", "--allocate", "1", "--output", "json") as process:
        assert process.stderr is not None
        assert process.stderr.readline() == "begun\n"
        process.send_signal(number)
        output, complaints = process.communicate(timeout=20)
    assert (process.returncode, output, complaints) == (130, "", "")


def test_a_second_signal_breaks_into_what_blocks(start: Start, folder: Path) -> None:
    """A plugin that blocks the event loop lets no first signal through."""
    plugin(
        folder,
        "blocks.py",
        "async def devices(self):\n    print('begun', flush=True)\n    time.sleep(3600)\n    yield []",
    )
    with start("try", "blocks.py", "--output", "json") as process:
        assert process.stderr is not None
        assert process.stderr.readline() == "begun\n"
        process.send_signal(signal.SIGINT)
        process.send_signal(signal.SIGTERM)
        output, _ = process.communicate(timeout=20)
    assert (process.returncode, output) == (130, "")


def test_an_interrupt_that_is_ignored(folder: Path, start: Start) -> None:
    """As in a shell's background job: SIGTERM ends it all the same."""
    plugin(
        folder,
        "hangs.py",
        "import signal\nsignal.signal(signal.SIGINT, signal.SIG_IGN)\n" + HANGS["while it waits for the first list"],
    )
    with start("try", "hangs.py", "--output", "json") as process:
        assert process.stderr is not None
        assert process.stderr.readline() == "begun\n"
        process.send_signal(signal.SIGTERM)
        output, _ = process.communicate(timeout=20)
    assert (process.returncode, output) == (130, "")


# On a terminal --------------------------------------------------------------------------------------------------------------


def leave(shown: Terminal, keys: str) -> None:
    """The keys end it well, and the terminal is as it was."""
    shown.press(keys)
    assert shown.end() == 0
    assert shown.is_as_before()
    assert "Traceback" not in shown.text()


def test_a_day_at_the_prompt(terminal: Open) -> None:
    """Allocate, be refused, free, restart the kubelet, by words and keys; the table follows."""
    with terminal("try", "seats.py") as shown:
        shown.expect(r"example.com/seat: 3 devices, 2 healthy, 2 free; Kubernetes 1\.36")
        shown.expect("seat-2 +Unhealthy")
        shown.press("allocate 1\r")
        shown.expect("pod-1 has seat-[01]\n")
        shown.expect("variable +SEAT_[01]=taken")
        shown.expect("3 devices, 2 healthy, 1 free")
        shown.expect("seat-[01] +Healthy +1? +pod-1")
        shown.expect("pod-1 +Running +seat-[01]")
        shown.press("a 2\n")
        shown.expect("pod-2 is Pending: 0/1 nodes are available")
        shown.press("free pod-3\r")
        shown.expect("There is no pod pod-3: pod-1, pod-2")
        shown.press("f pod-1\r")
        shown.expect("pod-2 +UnexpectedAdmissionError")
        shown.press("\x12")
        shown.expect("The kubelet has restarted")
        shown.expect("3 devices, 2 healthy, 2 free")
        shown.press("r\r")
        shown.expect("The kubelet has restarted")
        shown.press("dance 2\r")
        shown.expect("'dance 2' is none of: allocate N")
        shown.press("allocate 0\r\r")
        shown.expect("'allocate 0' is none of")
        leave(shown, "quit\r")


@pytest.mark.parametrize("keys", ["\x03", "\x04", "q\r"], ids=["ctrl-c", "ctrl-d", "q"])
def test_ways_to_leave(terminal: Open, keys: str) -> None:
    """Each is a good end."""
    with terminal("try", "seats.py") as shown:
        shown.expect("3 devices")
        leave(shown, keys)


def test_the_line_is_edited(terminal: Open) -> None:
    """Backspace, the whole line, cursor keys that do nothing, letters beyond ASCII; Ctrl-D deletes no line."""
    with terminal("try", "seats.py") as shown:
        shown.expect("3 devices")
        shown.press("nonsense\x15\x1b[A\x1bOPdançe\x7f\x7fx\x04\r")
        shown.expect("'danxx?' is none of|'dançx' is none of|'danx' is none of")
        leave(shown, "\x03")


def test_an_interrupt_while_the_kubelet_allocates(terminal: Open, folder: Path) -> None:
    """It is said what is waited for; the end is quick all the same."""
    plugin(folder, "hangs.py", HANGS["while the kubelet allocates"].replace("    print('begun', flush=True)\n", ""))
    with terminal("try", "hangs.py") as shown:
        shown.expect("1 device, 1 healthy")
        shown.press("allocate 1\r")
        shown.expect("the kubelet allocates 1 ... >")
        shown.press("\x03")
        assert shown.end(timeout_s=9) == 0  # served on a node, a plugin that ends waits 10 s for a call that hangs
        assert shown.is_as_before()


def test_an_interrupt_before_the_first_list(terminal: Open, folder: Path) -> None:
    """It is said what is waited for."""
    plugin(folder, "late.py", "async def devices(self):\n    await asyncio.sleep(3600)\n    yield []")
    with terminal("try", "late.py") as shown:
        shown.expect("waiting for the plugin's first list of devices")
        leave(shown, "\x03")


def test_a_plugin_that_ends_at_the_prompt(terminal: Open, folder: Path) -> None:
    """The terminal is as before, and the author's traceback is on it."""
    plugin(
        folder, "ends.py", "async def devices(self):\n    yield [Device('a')]\n    await asyncio.sleep(1)\n    1 / 0"
    )
    with terminal("try", "ends.py") as shown:
        shown.expect("1 device, 1 healthy")
        assert shown.end() == 1
        assert shown.is_as_before()
        assert "ZeroDivisionError: division by zero" in shown.text()


def test_more_devices_than_lines(terminal: Open, folder: Path) -> None:
    """As many as there is room for, and how many more there are; changes are followed."""
    plugin(
        folder,
        "many.py",
        "async def devices(self):\n    for count in (1000, 2000):\n        yield [Device(f'd{n:04}') for n in range(count)]\n"
        "        await asyncio.sleep(1)\n",
    )
    with terminal("try", "many.py") as shown:
        shown.expect("1000 devices, 1000 healthy")
        shown.expect("d0000")
        shown.expect("and 9[0-9][0-9] more")
        shown.expect("and 19[0-9][0-9] more")
        assert "d0100" not in shown.text()
        leave(shown, "\x03")


def test_more_pods_than_lines(terminal: Open, folder: Path) -> None:
    """The newest are shown, and the prompt always."""
    plugin(folder, "many.py", "async def devices(self):\n    yield [Device(f'd{n:04}') for n in range(9)]")
    with terminal("try", "many.py", lines=16) as shown:
        shown.expect("9 devices, 9 healthy")
        shown.press("allocate 1\rallocate 1\rallocate 1\r")
        shown.expect("9 devices, 9 healthy, 6 free")
        shown.press("allo")
        shown.expect("> allo_")
        screen = shown.text().split("9 devices, 9 healthy, 6 free")[-1]
        assert "pod-1 " not in screen.split("POD     STATUS")[-1]
        assert "pod-3   Running" in screen
        assert screen.splitlines()[-1].startswith("> allo_")
        leave(shown, "\x03")


def test_options_need_no_prompt(terminal: Open) -> None:
    """With --allocate it ends on a terminal too; colour is only there."""
    with terminal("try", "seats.py", "--allocate", "1") as shown:
        assert shown.end() == 0
    assert "pod-1 has seat-" in shown.text()
    assert "\x1b[32mHealthy" in shown.raw


def test_a_terminal_that_can_do_nothing(terminal: Open) -> None:
    """No prompt there."""
    with terminal("try", "seats.py", TERM="dumb") as shown:
        assert shown.end() == 0
    assert "example.com/seat: 3 devices" in shown.text()
