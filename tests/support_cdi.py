"""CDI specs of every kind, for tests that hold them against the schema and against the runtimes' own library."""

from typing import Any

from hypothesis import strategies as st

from devplugin import cdi

# What YAML, which the runtimes' parser is for, reads otherwise than JSON does, and what needs more than one byte.
TEXT = st.text(
    "aZ09 =\n\t\r\"\\'#:{}[],&*!|>%@`-?~<.\x01\x1b\x7f\x85\xa0\xe9\u2028\ud7ff\ufeff\ufffe\uffff\U0001f600", max_size=8
)
SOME_TEXT = TEXT.filter(bool)
PATH = TEXT.map(lambda text: f"/{text}")
KIND = st.from_regex(
    r"[a-z][a-z0-9]{1,8}(\.[a-z]([a-z0-9-]{0,4}[a-z0-9])?){0,2}/[A-Za-z][A-Za-z0-9_.-]{0,8}[A-Za-z0-9]", fullmatch=True
)
NAME = st.from_regex(r"[A-Za-z0-9]([A-Za-z0-9_.:-]{0,8}[A-Za-z0-9])?", fullmatch=True)
ANNOTATION = st.from_regex(
    r"([a-z]([a-z0-9-]{0,4}[a-z0-9])?\.io/)?[A-Za-z0-9]([A-Za-z0-9_.-]{0,8}[A-Za-z0-9])?", fullmatch=True
)
ENVIRONMENT = st.dictionaries(SOME_TEXT.filter(lambda name: "=" not in name), TEXT, max_size=1)
UINT32 = st.integers(0, 2**32 - 1)
INT64 = st.integers(0, 2**63 - 1)


def few(items: st.SearchStrategy[Any]) -> st.SearchStrategy[list[Any]]:
    return st.lists(items, max_size=1)


NODES = st.builds(
    cdi.DeviceNode,
    path=PATH,
    host_path=st.none() | PATH,
    type=st.sampled_from(["", "b", "c", "u", "p"]),
    major=st.none() | INT64,
    minor=st.none() | INT64,
    file_mode=st.none() | UINT32,
    permissions=st.sampled_from(["", "r", "w", "m", "rw", "rwm"]),
    uid=st.none() | UINT32,
    gid=st.none() | UINT32,
)
MOUNTS = st.builds(cdi.Mount, host_path=SOME_TEXT, container_path=PATH, options=few(TEXT), type=TEXT)
HOOKS = st.builds(
    cdi.Hook,
    hook_name=st.sampled_from(
        ["prestart", "createRuntime", "createContainer", "startContainer", "poststart", "poststop"]
    ),
    path=PATH,
    args=few(TEXT),
    env=ENVIRONMENT,
    timeout_s=st.none() | st.integers(1, 2**32 - 1),
)
RDT = st.builds(
    cdi.IntelRdt,
    clos_id=st.just("/") | TEXT.filter(lambda name: name not in (".", "..") and not {*name} & {*"/\n"}),
    l3_cache_schema=TEXT,
    mem_bw_schema=TEXT,
    schemata=few(TEXT),
    enable_monitoring=st.booleans(),
)
NETS = st.lists(
    st.builds(cdi.NetDevice, host_interface_name=SOME_TEXT, name=SOME_TEXT),
    max_size=2,
    unique_by=(lambda device: device.name, lambda device: device.host_interface_name),
)
EDITS = st.builds(
    cdi.ContainerEdits,
    env=ENVIRONMENT,
    device_nodes=few(NODES),
    net_devices=st.just([]) | NETS,
    hooks=few(HOOKS),
    mounts=few(MOUNTS),
    intel_rdt=st.none() | RDT,
    additional_gids=few(st.integers(1, 2**32 - 1)),
)
DEVICES = st.builds(cdi.Device, NAME, EDITS.filter(bool), st.just({}) | st.dictionaries(ANNOTATION, TEXT, max_size=1))
SPECS = st.builds(
    cdi.Spec,
    KIND,
    st.lists(DEVICES, min_size=1, max_size=2, unique_by=lambda device: device.name),
    EDITS,
    st.just({}) | st.dictionaries(ANNOTATION, TEXT, max_size=1),
)
