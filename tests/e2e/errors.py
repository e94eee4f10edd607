"""What a run can end with, apart from success."""


class MissingError(Exception):
    """Something that this machine lacks, and how to get it. Nothing was started."""


class FailedError(Exception):
    """An expectation that the cluster or the plugin did not meet: what was expected, and what was seen instead."""


def expect(holds: object, otherwise: str) -> None:
    """Raise `FailedError(otherwise)` where it does not hold."""
    if not holds:
        raise FailedError(otherwise)
