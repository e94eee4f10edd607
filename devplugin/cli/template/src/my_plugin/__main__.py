"""The plugin on this node's kubelet, until SIGTERM."""

from devplugin import run

from my_plugin.plugin import MyPlugin


def main() -> None:
    """Serve; what goes wrong is in the log, and the exit status is 1."""
    run(MyPlugin())


if __name__ == "__main__":
    main()
