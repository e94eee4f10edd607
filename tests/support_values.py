"""Hypothesis strategies for the values of ``devplugin.model``, as an author may build them."""

from itertools import permutations
from string import ascii_letters, digits

from hypothesis import settings
from hypothesis import strategies as st

from devplugin import Allocation, Device, DeviceNode, Health, Mount

# The first example of a test pays for its imports, and a shared machine stalls: time says nothing about the code.
settings.register_profile("patient", settings(), deadline=None)
settings.load_profile("patient")

INT64_MAX = 2**63 - 1

texts = st.text(st.characters(exclude_characters="\0", codec="utf-8"), max_size=20)
names = st.text(st.characters(exclude_characters="\0", codec="utf-8"), min_size=1, max_size=20)
environment_names = st.text(st.characters(exclude_characters="\0=", codec="utf-8"), min_size=1, max_size=20)
paths = texts.map("/{}".format)
device_ids = st.text(st.characters(min_codepoint=0x21, max_codepoint=0x7E), min_size=1, max_size=150)
# Node 0 is the one that encoders lose; the others need one to nine bytes.
numa_nodes = st.lists(st.just(0) | st.integers(0, INT64_MAX) | st.integers(0, 300), max_size=3).map(tuple)
permissions = st.sampled_from([letters for n in (1, 2, 3) for letters in map("".join, permutations("rwm", n))])
mounts = st.builds(Mount, paths, paths, st.booleans())
device_nodes = st.builds(DeviceNode, paths, paths, permissions)
_letter, _alphanumeric = st.sampled_from(ascii_letters), st.sampled_from(ascii_letters + digits)
_vendors = st.builds("{}{}{}".format, _letter, st.text(f"{ascii_letters}{digits}_.-", max_size=5), _alphanumeric)
_cdi_names = _alphanumeric | st.builds(
    "{}{}{}".format, _alphanumeric, st.text(f"{ascii_letters}{digits}_.:-", max_size=5), _alphanumeric
)
cdi_devices = st.builds("{}/{}={}".format, _vendors, _vendors, _cdi_names)
allocations = st.builds(
    Allocation,
    env=st.dictionaries(environment_names, texts, max_size=3),
    mounts=st.lists(mounts, max_size=3, unique_by=lambda mount: mount.container_path),
    device_nodes=st.lists(device_nodes, max_size=3, unique_by=lambda node: node.container_path),
    annotations=st.dictionaries(names, texts, max_size=3),
    cdi_devices=st.lists(cdi_devices, max_size=3),
)
# As the kubelet sees them; what they grant is in `devices`.
listed_devices = st.builds(Device, device_ids, health=st.sampled_from(Health), numa_nodes=numa_nodes)
devices = st.builds(Device, device_ids, health=st.sampled_from(Health), numa_nodes=numa_nodes, grants=allocations)
