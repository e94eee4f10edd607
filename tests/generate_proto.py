"""Generate the messages from every .proto file of a directory: ``python tests/generate_proto.py devplugin/_proto``."""

import os
import shutil
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

_PLUGIN = "protoc-gen-python_betterproto2"


def generate(protos: Path, target: Path) -> None:
    """Write ``message_pool.py`` and a package for each protobuf package of ``protos/*.proto`` into ``target``.

    Raises:
        FileNotFoundError: The compiler's plugin is not installed beside this Python.
        CalledProcessError: The compiler refused; it has said why on standard error.
    """
    tools = Path(sys.executable).parent
    plugin = tools / _PLUGIN
    if not plugin.exists():
        raise FileNotFoundError(f"{plugin} is missing: install the dependency group 'check' for this Python")
    with TemporaryDirectory(prefix="proto-") as path:
        work = Path(path)
        (
            work / "ruff.toml"
        ).touch()  # the plugin has its code formatted by ruff, which else looks for the user's settings
        out = work / "out"
        out.mkdir()
        subprocess.run(
            [
                sys.executable,
                "-m",
                "grpc_tools.protoc",
                f"--plugin={_PLUGIN}={plugin}",
                f"--proto_path={protos.resolve()}",
                f"--python_betterproto2_out={out}",
                "--python_betterproto2_opt=client_generation=async,server_generation=async",
                *sorted(proto.name for proto in protos.glob("*.proto")),
            ],
            cwd=work,
            env={**os.environ, "PATH": os.pathsep.join([str(tools), os.environ.get("PATH", os.defpath)])},
            check=True,
        )
        for generated in [out / "message_pool.py", *out.glob("*/__init__.py")]:
            written = target / generated.relative_to(out)
            written.parent.mkdir(exist_ok=True)
            shutil.copyfile(generated, written)


if __name__ == "__main__":
    directory = Path(sys.argv[1])
    generate(directory, directory)
