"""The rule for resource names; each verdict is that of the real device managers."""

import pytest

from devplugin.testing._names import is_extended_resource_name

LONGEST_PREFIX = ".".join(["a" * 63] * 3 + ["a" * 52])


@pytest.mark.parametrize(
    "name",
    ["a/b", "a/B_c.d-e", "a/" + "b" * 63, "a" * 244 + "/b", LONGEST_PREFIX + "/b", "1.2/3", "a-b.c/d"],
)
def test_taken(name: str) -> None:
    """Names that a kubelet takes."""
    assert is_extended_resource_name(name)


@pytest.mark.parametrize(
    "name",
    [
        *(
            "",
            "a",
            "a/",
            "/b",
            "a/b/c",
            "A/b",
            "a..b/c",
            "a-/b",
            "-a/b",
            "a_b/c",
            "a/-b",
            "a/b-",
            "a/.b",
            "a b/c",
            "ü/b",
            "a/ü",
        ),
        *("kubernetes.io/x", "x.kubernetes.io/y", "requests.a/b", "a/b\n", "a\n/b"),
        *("a/" + "b" * 64, "a" * 245 + "/b", LONGEST_PREFIX + "a/b"),
    ],
)
def test_refused(name: str) -> None:
    """Names that a kubelet refuses."""
    assert not is_extended_resource_name(name)
