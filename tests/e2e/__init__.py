"""A whole Kubernetes node in namespaces of its own, and the scenario played on it (see README.md beside this file)."""
