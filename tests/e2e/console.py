"""What the person at the terminal sees while it runs."""

import time
from collections.abc import Iterator
from contextlib import contextmanager


def say(text: str) -> None:
    print(f"{time.strftime('%H:%M:%S')} {text}", flush=True)


@contextmanager
def timed(what: str) -> Iterator[None]:
    """Say that `what` begins, and how long it took when it has ended well."""
    say(f"{what} …")
    start = time.monotonic()
    yield
    say(f"{what}: {time.monotonic() - start:.1f} s")
