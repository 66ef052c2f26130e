"""How bad a seed's world is: every rate and every habit, drawn at once.

Owns the choices. Must not act on them: the disks, the network, the hosts, the operator and
`trouble` do. The rates are set so that five thousand seeds see over 20,000 crashes and 8,000
cuts; `seeds.py` fails a long run that sees fewer.
"""

from __future__ import annotations

from dataclasses import dataclass
from random import Random

from tests.sim.disk import Faults


@dataclass(frozen=True)
class Habits:
    """What the operator of a seed likes to do, as chances of a command."""

    delete: float
    restore: float
    rate_limit: float
    """A resync is given a rate limit."""
    overlap: bool
    """Two operators work at the same time."""
    mark: float = 0.12
    """A backup is taken."""
    quick: float = 0.0
    """A local pair is split quickly, whatever state it is in."""
    parting: float = 0.0
    """Behind the bad times comes a quick split, and hosts write until close behind it."""
    patience: float = 0.0
    """A pair in PAIR is left alone."""
    swap: float = 0.0
    """The roles of a remote pair are exchanged."""
    grouped: float = 0.0
    """A group is split, or brought back."""
    haste: float = 0.0
    """How often a pair's new state is answered by the next command at once."""


@dataclass(frozen=True)
class Weather:
    """How bad a seed's world is."""

    duration_s: float
    crash_every_s: float
    cut_every_s: float
    command_every_s: float
    host_pause_s: float
    hosts: int
    extent_bytes: int
    hot_extents: int
    prewritten: bool
    """Hosts write before there are pairs, so that the first copy has something to copy."""
    spared: tuple[str, ...]
    """Machines whose disks are good and quick, so that they run ahead of the others."""
    rough_start: bool
    """Trouble begins before the pairs are in sync."""
    trouble_follows: float
    """How often a command is followed by a cut or a crash while it is under way."""
    decay: float
    """How often a crash leaves a metadata file unreadable."""
    habits: Habits
    data: Faults
    meta: Faults


def _disks(rng: Random) -> tuple[Faults, Faults]:
    bad = rng.random() < 0.35
    data = Faults(
        read_error=rng.choice((0.0, 0.002)) if bad else 0.0,
        write_error=rng.choice((0.0, 0.003)) if bad else 0.0,
        flush_error=rng.choice((0.0, 0.003, 0.02)) if bad else 0.0,
        no_space=rng.choice((0.0, 0.01)) if bad else 0.0,
        cold_read=rng.choice((0.0, 0.3, 1.0)),
        slow_flush=rng.choice((0.0, 0.02, 0.3)),
        flush_s=rng.choice((0.3, 1.0)),
        read_s=rng.choice((0.01, 0.05, 0.4)),
    )
    meta = Faults(
        cold_read=0.1,
        slow_flush=rng.choice((0.0, 0.05, 0.3, 0.7)),
        flush_s=rng.choice((0.05, 0.3, 1.0, 4.0)),
        read_error=rng.choice((0.0, 0.0, 0.005)) if bad else 0.0,
        write_error=rng.choice((0.0, 0.0, 0.001)) if bad else 0.0,
        flush_error=rng.choice((0.0, 0.0, 0.001)) if bad else 0.0,
    )
    return data, meta


def draw_weather(rng: Random) -> Weather:
    """Draw it."""
    data, meta = _disks(rng)
    extent_bytes = rng.choice((4 << 10, 16 << 10, 16 << 10, 64 << 10))
    # With a large hot set a slot of the log is longer than a sector, and can tear.
    sizes = {4 << 10: (12, 40, 200), 16 << 10: (4, 8, 16), 64 << 10: (4,)}
    return Weather(
        duration_s=rng.uniform(6, 12),
        crash_every_s=rng.choice((1.4, 2.6, 5.0)),
        cut_every_s=rng.choice((4.0, 8.0, 20.0)),
        command_every_s=rng.choice((0.15, 0.4, 1.0)),
        host_pause_s=rng.choice((0.04, 0.08, 0.2)),
        hosts=rng.randint(1, 3),
        extent_bytes=extent_bytes,
        hot_extents=rng.choice(sizes[extent_bytes]),
        prewritten=rng.random() < 0.5,
        spared=tuple(name for name in "abc" if rng.random() < 0.25),
        rough_start=rng.random() < 0.2,
        trouble_follows=rng.choice((0.0, 0.1, 0.3)),
        decay=rng.choice((0.0, 0.0, 0.5)),
        habits=Habits(
            delete=rng.choice((0.02, 0.02, 0.1)),
            restore=rng.choice((0.04, 0.04, 0.2)),
            rate_limit=rng.choice((0.0, 0.5)),
            mark=rng.choice((0.12, 0.12, 0.4)),
            patience=rng.choice((0.0, 0.8)),
            haste=rng.choice((0.0, 0.0, 0.3)),
            overlap=rng.random() < 0.4,
            quick=rng.choice((0.0, 0.2, 0.6)),
            parting=rng.choice((0.0, 0.0, 1.0)),
            swap=rng.choice((0.0, 0.1, 0.4)),
            grouped=rng.choice((0.1, 0.4)),
        ),
        data=data,
        meta=meta,
    )
