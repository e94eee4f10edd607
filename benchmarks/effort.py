"""How much is measured."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Effort:
    """How often each thing is measured, and up to which sizes."""

    rounds: int = 5
    starts: int = 15
    idle_s: float = 10.0
    restarts: int = 200
    slow_restarts: int = 3
    """Of the Go sample, which waits 10 s before it registers again."""
    calls: int = 1_000
    flood_s: float = 2.0
    list_lengths: tuple[int, ...] = (100, 1_000, 10_000, 100_000)
    change_lengths: tuple[int, ...] = (10_000, 100_000)
    stall_length: int = 100_000
    flaps: int = 3_600
    growth_devices: tuple[int, ...] = (1, 100, 1_000, 10_000, 30_000, 60_000, 110_000)
    growth_resources: tuple[int, ...] = (1, 10, 50, 100, 200)


QUICK = Effort(
    rounds=2,
    starts=2,
    idle_s=2.0,
    restarts=4,
    slow_restarts=1,
    calls=50,
    flood_s=0.3,
    flaps=20,
    growth_devices=(1, 1_000, 30_000),
    growth_resources=(1, 10),
)
