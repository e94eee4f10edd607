"""The fixtures that authors have: the suite's own ``serve`` is another one."""

from pytest_devplugin import serve

__all__ = ["serve"]
