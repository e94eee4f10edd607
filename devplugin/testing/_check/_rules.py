"""What is looked for in a plugin: every rule, and what a finding of it says."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

from devplugin.errors import ConfigurationError

__all__ = ["RULES", "Finding", "Rule", "reasons_to_ignore", "rules"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """Something that is wrong with a plugin, or will be on a node.

    Attributes:
        code: The rule's code, such as ``DP101``: it stays the same, and is what `ignore` takes.
        subject: What it is about: a place in the plugin's code, a device, or the resource.
        meaning: What was found.
        why: Why that matters: who suffers, and how.
        remedy: What to do.
        documented_at: Where it is explained: a page of the documentation, with the anchor.
    """

    code: str
    subject: str
    meaning: str
    why: str = field(repr=False)
    remedy: str = field(repr=False)
    documented_at: str = field(repr=False)

    def __str__(self) -> str:
        return f"{self.code} {self.subject}: {self.meaning}. {self.why} {self.remedy} ({self.documented_at})"


@dataclass(frozen=True, slots=True)
class Rule:
    """Something that a plugin should keep to.

    Attributes:
        code: Its code. Those of one hundred belong together: the class, the list, the hooks, the event loop.
        title: What a breach of it is, in a few words.
        why: Why it matters.
        remedy: What to do about it.
    """

    code: str
    title: str
    why: str
    remedy: str

    @property
    def documented_at(self) -> str:
        """The page of the documentation, with the anchor."""
        return f"docs/reference/checks.md#{self.code.lower()}"

    def finding(self, subject: str, meaning: str) -> Finding:
        """A breach of this rule; `meaning` is a sentence without its full stop."""
        return Finding(
            code=self.code,
            subject=subject,
            meaning=meaning,
            why=self.why,
            remedy=self.remedy,
            documented_at=self.documented_at,
        )


def reasons_to_ignore(ignore: Mapping[str, str]) -> Mapping[str, str]:
    """`ignore`, when each of its codes is a rule's, with a reason.

    Raises:
        ConfigurationError: One is not.
    """
    for code, reason in ignore.items():
        if code not in RULES:
            raise ConfigurationError(f"there is no rule {code!r} to ignore; there are {', '.join(RULES)}")
        if not isinstance(reason, str) or not reason.strip():
            raise ConfigurationError(f"{code} is to be ignored without a reason: say why in a sentence")
    return ignore


_OF_THE_CLASS = (
    Rule(
        "DP101",
        "A name that is nearly a hook's",
        "Nothing calls it: the kubelet is told only of hooks that are overridden under their own name.",
        "Give it the hook's name; or another one, when it is not meant to be the hook.",
    ),
    Rule(
        "DP102",
        "A hook with a wrong signature",
        "The first call fails, and with it the pod that needed it.",
        "Take the arguments of the hook in DevicePluginBase; further ones need defaults.",
    ),
    Rule(
        "DP103",
        "A hook that is not async",
        "What it returns cannot be awaited (or iterated over): the first call fails.",
        "Write 'async def', and for devices() an async generator: 'async def' with a 'yield'.",
    ),
    Rule(
        "DP104",
        "A resource name that is not usable",
        "The kubelet refuses to register it, and the plugin ends.",
        "Name it vendor-domain/resource, as in example.com/serial.",
    ),
)

_OF_THE_LIST = (
    Rule(
        "DP201",
        "An enumeration that yields nothing",
        "Until there is a list the node does not have the resource, and pods that want it stay Pending.",
        "Yield what is known already, an empty list if that is so, and yield again when there is more.",
    ),
    Rule(
        "DP202",
        "A slow enumeration",
        "After a reboot, pods that had devices are admitted before the list is there, and fail for good.",
        "Yield first what is quick to find, and the details later; or keep what was found the last time.",
    ),
    Rule(
        "DP203",
        "An enumeration that fails",
        "serve() ends with it, and the node's devices are unhealthy until the process is started again.",
        "Catch what can be expected where it comes up, and yield the devices as unhealthy meanwhile.",
    ),
    Rule(
        "DP204",
        "Ids that do not stay the same",
        "The kubelet keeps the ids of running containers: a device under a new id can be given away twice.",
        "Make the id of what stays with the hardware: a serial number, a PCI address, a path under by-id.",
    ),
    Rule(
        "DP205",
        "A list whose order changes",
        "Every list in another order is sent, and written to disk by the kubelet, although nothing has changed.",
        "Sort the list, for instance by id.",
    ),
    Rule(
        "DP206",
        "An id that is too long",
        "The API asks for 63 characters at most: kubelets do not enforce it, but those who show or store ids may.",
        "Shorten it: the end of a serial number, or a hash of the long name.",
    ),
    Rule(
        "DP207",
        "An id of two resources",
        "Kubelets up to 1.36 look a device's health up across resources, so a pod may be shown that of the other one.",
        "Put the kind of the device into its id.",
    ),
    Rule(
        "DP208",
        "A device that is dropped from the list",
        "While a container has it, the pod's status goes on to call it healthy, and the node's capacity falls without a word.",
        "Remember the ids that were there, and yield a device that has gone with Health.UNHEALTHY.",
    ),
    Rule(
        "DP209",
        "A list near the kubelet's limit",
        "The kubelet receives at most 4 MiB in a message, and drops a plugin whose list is longer.",
        "Shorten the ids, or offer the devices under several resources.",
    ),
    Rule(
        "DP210",
        "A topology that is missing",
        "The kubelet cannot place a container's devices near its CPUs and memory, though this machine knows where they are.",
        "Say numa_nodes: devplugin.topology looks them up.",
    ),
    Rule(
        "DP211",
        "Nothing to allocate",
        "Without a healthy device no hook could be called: what they do was not checked.",
        "Check it where there are devices, or give the plugin a directory of a test's own to look into.",
    ),
    Rule(
        "DP212",
        "A change that is not noticed",
        "Pods are given a device that has gone, and a new one is given to nobody.",
        "Look again at intervals, or wait for the kernel's events; and yield the list again.",
    ),
)

_OF_THE_HOOKS = (
    Rule(
        "DP301",
        "An Allocate that is not idempotent",
        "The kubelet asks again for the devices of an init container, and would give the containers of a pod different things.",
        "Make the answer of the devices alone: no counters, no random names, no time.",
    ),
    Rule(
        "DP302",
        "A slow Allocate",
        "The kubelet admits no other pod of the node meanwhile.",
        "Prepare in devices(), or as a container starts in pre_start_container().",
    ),
    Rule(
        "DP303",
        "A refusal of what was announced",
        "The pod that was given these devices fails for good, and the scheduler sends the next one.",
        "Yield what cannot be given as unhealthy.",
    ),
    Rule(
        "DP304",
        "An Allocate of what was not announced",
        "A kubelet that has old news would give a container a device that has gone, or is broken.",
        "Refuse ids that are unknown or unhealthy; serve() of DevicePluginBase does.",
    ),
    Rule(
        "DP305",
        "Environment names that clash",
        "A container with both devices gets the one value and not the other, or is refused.",
        "Put the device's id into the name, or override allocate() and join the values.",
    ),
    Rule(
        "DP306",
        "A mount of what is not there",
        "The container cannot be created, or the runtime makes an empty directory of that name on the host.",
        "Grant only what exists on the host, and yield the device as unhealthy when it does not.",
    ),
    Rule(
        "DP307",
        "A device node that is not there",
        "The container cannot be created, although the device was called healthy.",
        "Yield the device as unhealthy, or leave it out until it is seen for the first time.",
    ),
    Rule(
        "DP308",
        "What looks like a secret",
        "The kubelet writes the answer to its disk, and everybody who may read the container's settings sees it.",
        "Mount a file that holds it, or have the pod use a Kubernetes Secret.",
    ),
    Rule(
        "DP309",
        "A wrong preference",
        "The kubelet drops what it did not offer, fills up what is too short and cuts what is too long, at random.",
        "Answer `size` different devices of `available`, those of `must_include` among them; or none.",
    ),
    Rule(
        "DP310",
        "A container that cannot start",
        "Its pod shows CreateContainerConfigError, and the kubelet tries again and again.",
        "Let pre_start_container() bear repetition, and take less than 30 seconds.",
    ),
)

_OF_THE_LOOP = (
    Rule(
        "DP401",
        "A call that blocks the event loop",
        "Nothing else is answered meanwhile, and the kubelet admits no pod of the node while it waits.",
        "Put it into a thread (asyncio.to_thread), or use what can be awaited.",
    ),
    Rule(
        "DP402",
        "A plugin that does not come back",
        "A kubelet that restarts forgets who registered: the node's devices are unhealthy until the plugin registers again.",
        "Leave serve() as DevicePluginBase has it.",
    ),
)

RULES: Mapping[str, Rule] = MappingProxyType(
    {rule.code: rule for rule in (*_OF_THE_CLASS, *_OF_THE_LIST, *_OF_THE_HOOKS, *_OF_THE_LOOP)}
)


def rules() -> Mapping[str, Rule]:
    """Every rule of `check_plugin`, by its code."""
    return RULES
