"""``check_plugin``: a plugin is run through what kubelets do, and what is wrong with it is said before a node says it.

The rules are in ``_rules``; each of the other modules looks for those of one kind.
"""

from devplugin.testing._check._class import check_class
from devplugin.testing._check._rules import Finding, Rule, rules
from devplugin.testing._check._run import check_plugin

__all__ = ["Finding", "Rule", "check_class", "check_plugin", "rules"]
