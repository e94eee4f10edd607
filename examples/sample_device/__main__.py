"""The sample plugin: resource demo/sample-device, devices 1 to 4, each granting SAMPLE_DEVICE<N>=1."""

import argparse
import logging
from collections.abc import AsyncIterator
from functools import partial

from devplugin import Allocation, Device, DevicePluginBase, run


class SampleDevices(DevicePluginBase):
    resource_name = "demo/sample-device"

    async def devices(self) -> AsyncIterator[list[Device]]:
        yield [Device(f"{n}", grants=Allocation(env={f"SAMPLE_DEVICE{n}": "1"})) for n in range(1, 5)]


def main() -> None:
    help_format = partial(argparse.HelpFormatter, width=100)  # else argparse imports shutil: 0.4 MiB on every node
    options = argparse.ArgumentParser(prog="sample_device", description=__doc__, formatter_class=help_format)
    options.add_argument(
        "--kubelet-dir", metavar="DIR", default="/var/lib/kubelet/device-plugins", help="where kubelet.sock is"
    )
    options.add_argument(
        "-v", dest="verbosity", action="count", default=0, help="say what happens; -vv: say everything"
    )
    args = options.parse_args()
    logging.basicConfig(format="%(message)s")
    level = {0: logging.WARNING, 1: logging.INFO}.get(args.verbosity, logging.DEBUG)
    logging.getLogger("devplugin").setLevel(level)
    logging.getLogger("devplugin.session").setLevel(min(level, logging.INFO))  # a plugin that waits is never silent
    run(SampleDevices(), kubelet_dir=args.kubelet_dir)


if __name__ == "__main__":
    main()
