"""A Kubernetes device plugin for example.com/my-device."""
