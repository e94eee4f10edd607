"""What a kubelet has seen, as a text for people: the report of a test that failed."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from devplugin.testing._kubelet import FakeKubelet
    from devplugin.testing._records import Call, Registration, Snapshot

__all__ = ["story_of"]

_LINES_MAX = 40


def story_of(kubelet: "FakeKubelet") -> str:
    """The state, then the newest of what has happened, by its time on the kubelet's clock, then the log."""
    happened = sorted(_happened(kubelet), key=lambda entry: entry[0])
    left_out = len(happened) - _LINES_MAX
    lines = [repr(kubelet), *(f"  {pod.row}" for pod in kubelet.pods.values())]
    if left_out > 0:
        lines.append(f"  ... and {left_out} more before")
    lines += [f"{at_s:10.3f} s  {text}" for at_s, text in happened[-_LINES_MAX:]]
    lines += [f"  log: {line}" for line in kubelet.log[-_LINES_MAX:]]
    return "\n".join(lines)


def _happened(kubelet: "FakeKubelet") -> Iterator[tuple[float, str]]:
    records: list[Registration | Snapshot | Call] = [*kubelet.registrations, *kubelet.snapshots, *kubelet.calls]
    for record in records:
        yield record.at_s, str(record)
    for pod in kubelet.pods.values():
        for event in pod.events:
            yield event.at_s, f"Pod {pod.name}: {event}"
