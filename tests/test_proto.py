"""The generated messages are those of the .proto file."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests import generate_proto
from tests.generate_proto import generate

PROTO = Path(__file__).parents[1] / "devplugin" / "_proto"
GENERATED = [Path("message_pool.py"), Path("v1beta1", "__init__.py")]


def sources(directory: Path) -> dict[Path, str]:
    return {path.relative_to(directory): path.read_text() for path in directory.rglob("*") if path.is_file()}


def test_the_committed_code_is_what_the_proto_file_gives(tmp_path: Path) -> None:
    """Who changes one of them without the other is told; ``make proto`` mends it."""
    generate(PROTO, tmp_path)
    assert sources(tmp_path) == {path: (PROTO / path).read_text() for path in GENERATED}


def test_a_changed_field_is_a_difference(tmp_path: Path) -> None:
    """The comparison sees a field that has got another number; the command's way of use writes beside the .proto file."""
    proto = tmp_path / "deviceplugin_v1beta1.proto"
    text = (PROTO / proto.name).read_text()
    proto.write_text(text.replace("string health = 2;", "string health = 4;"))
    subprocess.run([sys.executable, generate_proto.__file__, str(tmp_path)], check=True)
    written = sources(tmp_path)
    assert written.keys() == {Path(proto.name), *GENERATED}
    committed = (PROTO / "v1beta1" / "__init__.py").read_text().splitlines()
    changed = set(written[Path("v1beta1", "__init__.py")].splitlines()) - set(committed)
    assert changed == {'    health: "str" = betterproto2.field(4, betterproto2.TYPE_STRING)'}


def test_the_surroundings_do_not_show(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The code is the same wherever it is generated, though its formatter looks for settings."""
    here = tmp_path / "here"
    (here / "v1beta1").mkdir(parents=True)
    (here / "ruff.toml").write_text("line-length = 60\n")
    monkeypatch.chdir(here)
    generate(PROTO, here)
    assert (here / "v1beta1" / "__init__.py").read_text() == (PROTO / "v1beta1" / "__init__.py").read_text()


def test_a_missing_compiler_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the plugin for betterproto2 the error says what to install."""
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    with pytest.raises(FileNotFoundError, match="install the dependency group 'check'"):
        generate(PROTO, tmp_path)


def test_a_broken_proto_file_is_an_error(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """The compiler's words are shown, and nothing is written."""
    proto = tmp_path / "broken.proto"
    proto.write_text('syntax = "proto3"; package broken; message A { string }')
    with pytest.raises(subprocess.CalledProcessError):
        generate(tmp_path, tmp_path)
    assert "broken.proto:1:" in capfd.readouterr().err
    assert sources(tmp_path).keys() == {Path("broken.proto")}
