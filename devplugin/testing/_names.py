"""The kubelet's rule for the name of an extended resource."""

import re

__all__ = ["is_extended_resource_name"]

_SUBDOMAIN = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*")
_NAME = re.compile(r"([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]")
_SUBDOMAIN_MAX = 253
_NAME_MAX = 63
_QUOTA_PREFIX = "requests."


def is_extended_resource_name(name: str) -> bool:
    """Whether the kubelet takes `name` for an extended resource.

    Sources: ``pkg/apis/core/v1/helper/helpers.go`` (``IsExtendedResourceName``) and
    ``k8s.io/apimachinery/pkg/api/validate/content`` (``IsQualifiedName``, applied to ``requests.`` and the name).
    """
    if "/" not in name or "kubernetes.io/" in name or name.startswith(_QUOTA_PREFIX):
        return False
    prefix, _, local = (_QUOTA_PREFIX + name).partition("/")
    if "/" in local:
        return False
    prefix_ok = len(prefix) <= _SUBDOMAIN_MAX and _SUBDOMAIN.fullmatch(prefix) is not None
    return prefix_ok and len(local) <= _NAME_MAX and _NAME.fullmatch(local) is not None
