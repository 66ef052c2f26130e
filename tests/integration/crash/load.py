"""Hosts that write, discard, flush and read one LUN from several threads, through anything.

Owns the threads and their sessions. A session that is lost is opened again until it comes up;
what was under way stays in doubt in the ledger. Must not judge states of pairs. What a host saw
that it must never see is kept in `problems`, and `check` raises it.
"""

from __future__ import annotations

import contextlib
import ctypes
import itertools
import random
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field

from tests.integration.crash.ledger import DISCARDED, SECTOR_BYTES, Ledger, content
from tests.integration.crash.libiscsi import RefusedError, Session, SessionLostError

THINK_S = 0.002
RECONNECT_S = 0.02
STOP_WITHIN_S = 90.0
COUNTS = (1, 1, 3, 7, 8, 8, 8, 16, 40, 128)
HOT_SECTORS = 512


@dataclass(frozen=True)
class Lun:
    """Where it is exported, and as whom its hosts log in."""

    portal: str
    iqn: str
    initiator: str


@dataclass
class Counts:
    """What was acknowledged, and what stayed in doubt."""

    writes: int = 0
    discards: int = 0
    flushes: int = 0
    reads: int = 0
    lost: int = 0
    """Sessions that ended without a logout."""


@dataclass
class Load:
    """The hosts of one LUN. Starts paused."""

    library: ctypes.CDLL
    lun: Lun
    ledger: Ledger
    tags: Iterator[int]
    seed: int
    workers: int = 3
    counts: Counts = field(default_factory=Counts)
    problems: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._news = threading.Condition()
        self._running = False
        self._stopping = False
        self._logged_in: set[int] = set()
        self._at_work: set[int] = set()
        self._busy: set[int] = set()
        self._threads = [
            threading.Thread(target=self._work, args=(number,), name=f"host {number}")
            for number in range(self.workers)
        ]
        for thread in self._threads:
            thread.start()

    # ------------------------------------------------------------ what a test says

    def resume(self) -> None:
        """Go on."""
        with self._news:
            self._running = True
            self._news.notify_all()

    def pause(self, *, log_out: bool = False) -> None:
        """Return when no command is under way; with `log_out`, when no session is open either."""
        with self._news:
            self._running = False
            self._logging_out = log_out
            self._news.notify_all()
            quiet = self._news.wait_for(
                lambda: not self._at_work and not (log_out and self._logged_in), STOP_WITHIN_S
            )
        assert quiet, f"a host still waits for an answer after {STOP_WITHIN_S:.0f} s"
        self.check()

    def acknowledged(self, writes: int, within_s: float) -> None:
        """Wait for so many more acknowledged writes."""
        with self._news:
            goal = self.counts.writes + writes
            came = self._news.wait_for(
                lambda: self.counts.writes >= goal or bool(self.problems), within_s
            )
        self.check()
        assert came, f"hosts got {self.counts.writes - goal + writes} of {writes} writes answered"

    def check(self) -> None:
        """Raise what a host saw."""
        assert not self.problems, "\n".join(self.problems)

    def stop(self) -> None:
        """Log out and end the threads; can be repeated."""
        with self._news:
            self._stopping = True
            self._news.notify_all()
        for thread in self._threads:
            thread.join(STOP_WITHIN_S)
            assert not thread.is_alive(), f"{thread.name} does not end"

    # ------------------------------------------------------------ what a host does

    _logging_out = False

    def _work(self, number: int) -> None:
        chance = random.Random(f"{self.seed}/{number}")
        session: Session | None = None
        try:
            while self._may_go_on(number):
                if session is None:
                    session = self._log_in(number)
                elif self._logging_out and not self._running:
                    self._log_out(number, session)
                    session = None
                else:
                    session = self._step(number, session, chance)
        except Exception as error:  # noqa: BLE001 - the test's thread raises it
            self.problems.append(f"host {number}: {error!r}")
        finally:
            if session is not None:
                session.close()
            with self._news:
                self._at_work.discard(number)
                self._logged_in.discard(number)
                self._news.notify_all()

    def _may_go_on(self, number: int) -> bool:
        """Wait while there is a pause; False when it is over."""
        with self._news:
            self._at_work.discard(number)
            self._news.notify_all()
            self._news.wait_for(
                lambda: (
                    self._running
                    or self._stopping
                    or (self._logging_out and number in self._logged_in)
                )
            )
            if not self._stopping:
                self._at_work.add(number)
            return not self._stopping

    def _log_in(self, number: int) -> Session | None:
        lun = self.lun
        try:
            session = Session(self.library, lun.portal, lun.iqn, f"{lun.initiator}-{number}")
        except SessionLostError:
            with self._news:
                self._news.wait_for(lambda: self._stopping, RECONNECT_S)
            return None
        with self._news:
            self._logged_in.add(number)
        return session

    def _log_out(self, number: int, session: Session) -> None:
        session.close()
        with self._news:
            self._logged_in.discard(number)

    def _step(self, number: int, session: Session, chance: random.Random) -> Session | None:
        try:
            self._command(session, chance)
        except SessionLostError:
            with self._news:
                self._logged_in.discard(number)
                self.counts.lost += 1
            return None
        except RefusedError as error:
            # A unit attention was not carried out; any other refusal is no way to treat a host.
            if "UNIT_ATTENTION" not in str(error):
                raise
        with self._news:
            self._news.wait_for(lambda: self._stopping or not self._running, THINK_S)
        return session

    def _command(self, session: Session, chance: random.Random) -> None:
        roll = chance.random()
        if roll < 0.06:
            session.flush()
            self._count("flushes")
            return
        count = chance.choice(COUNTS)
        reach = HOT_SECTORS if chance.random() < 0.5 else self.ledger.sectors
        first = chance.randrange(0, reach - count)
        with self._alone(first, count) as free:
            if not free:
                return
            if roll < 0.2:
                data = session.read(first * SECTOR_BYTES, count * SECTOR_BYTES)
                self.ledger.check(data, "read by a host", first, settle=True)
                self._count("reads")
            elif roll < 0.26:
                self._change(session, DISCARDED, first, count, fua=False)
                self._count("discards")
            else:
                self._change(session, next(self.tags), first, count, fua=roll > 0.93)
                self._count("writes")

    def _change(self, session: Session, tag: int, first: int, count: int, *, fua: bool) -> None:
        self.ledger.begin(tag, first, count)
        if tag == DISCARDED:
            session.discard(first * SECTOR_BYTES, count * SECTOR_BYTES)
        else:
            session.write(first * SECTOR_BYTES, content(tag, first, count), fua=fua)
        self.ledger.acknowledged(tag, first, count)

    @contextlib.contextmanager
    def _alone(self, first: int, count: int) -> Iterator[bool]:
        """Two commands under way never meet: their order would be anybody's guess."""
        mine = set(range(first, first + count))
        with self._news:
            free = not mine & self._busy
            if free:
                self._busy |= mine
        try:
            yield free
        finally:
            if free:
                with self._news:
                    self._busy -= mine

    def _count(self, what: str) -> None:
        with self._news:
            setattr(self.counts, what, getattr(self.counts, what) + 1)
            self._news.notify_all()


def new_tags() -> Iterator[int]:
    """Tags for all loads of a test: no two writes are the same."""
    return itertools.count(DISCARDED + 1)
