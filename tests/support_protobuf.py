"""Google's protobuf over the project's .proto file: what the wire is held against."""

from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from google.protobuf.descriptor_pb2 import FileDescriptorSet
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message import DecodeError
from google.protobuf.message_factory import GetMessageClass
from grpc_tools import protoc  # type: ignore[import-untyped]  # it brings no types

import devplugin


@cache
def _pool() -> DescriptorPool:
    """The descriptors, in a pool of their own: a program may have a v1beta1 package already."""
    proto = Path(devplugin.__file__).with_name("_proto") / "deviceplugin_v1beta1.proto"
    with TemporaryDirectory(prefix="proto-") as directory:
        compiled = Path(directory, "descriptors")
        failed = protoc.main(["protoc", f"--proto_path={proto.parent}", f"--descriptor_set_out={compiled}", proto.name])
        assert not failed
        files = FileDescriptorSet.FromString(compiled.read_bytes())
    pool = DescriptorPool()
    for file in files.file:
        pool.Add(file)
    return pool


@cache
def google(name: str) -> Any:
    """Google's class for a message of v1beta1."""
    return GetMessageClass(_pool().FindMessageTypeByName(f"v1beta1.{name}"))


def google_parse(name: str, data: bytes) -> Any:
    """What Google's protobuf reads; None when it refuses."""
    try:
        return google(name).FromString(data)
    except DecodeError:
        return None
