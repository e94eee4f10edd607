"""Make a list of devices that are there into a message: ``python encode_protobuf.py DEVICES``."""

import sys

import deviceplugin_v1beta1_pb2 as pb

devices = [pb.Device(ID=f"device-{n:09}", health="Healthy") for n in range(3_000)]
pb.ListAndWatchResponse(devices=devices[: int(sys.argv[1])]).SerializeToString()
