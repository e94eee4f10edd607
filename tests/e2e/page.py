"""The documentation's page of the play: its text, and the commands with the output that the run really gave."""

from pathlib import Path

PAGE = Path("docs", "how-to", "real-cluster.md")


class Page:
    """A page in Markdown, that grows as the play goes on."""

    def __init__(self) -> None:
        self._parts: list[str] = []

    def heading(self, title: str) -> None:
        self._parts.append(f"## {title}\n")

    def text(self, paragraph: str) -> None:
        self._parts.append(f"{paragraph}\n")

    def command(self, command: str, output: str) -> None:
        """A command line as typed, and what it printed."""
        lines = [f"$ {command}", *(line.rstrip() for line in output.splitlines())]
        self._parts.append("\n".join(["```console", *lines, "```", ""]))

    def output(self, text: str, language: str = "text") -> None:
        self._parts.append(f"```{language}\n{text.rstrip()}\n```\n")

    def render(self, introduction: str) -> str:
        return "\n".join([introduction, *self._parts])
