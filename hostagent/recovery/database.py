"""One database on host 1: quiesced and let go, stopped, started, recovered and checked.

Owns the order of these, their deadlines, and what is told of them; a recipe knows how. Must not
touch the file system's mount. `stop` and `quiesce` fail with HostError; `recover` never does:
what went wrong is in its report.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Protocol

from controller.api import messages as m
from controller.api.errors import RejectedError
from hostagent.errors import HostError, listed
from hostagent.programs import Blocking, need_program
from hostagent.recovery.commands import run
from hostagent.recovery.config import DatabaseConfig
from hostagent.recovery.processes import users_of
from hostagent.recovery.recipe import Checked, Quiesced, Recipe

POLL_S = 0.2
GONE_AFTER_S = 5.0
"""A server whose processes are away for so long while it is waited for has ended."""


class Clock(Protocol):
    """Time, injected."""

    def monotonic(self) -> float:
        """Seconds that only go forward."""


class Database:
    """One configured database."""

    def __init__(
        self,
        config: DatabaseConfig,
        recipe: Recipe,
        blocking: Blocking,
        clock: Clock,
        pause: Callable[[float], Awaitable[None]],
    ) -> None:
        self.config = config
        self.info = m.DatabaseInfo(
            name=config.name, kind=config.kind, path=config.path, also=config.also
        )
        """How it is, for whoever asks."""
        self._recipe = recipe
        self._blocking = blocking
        self._clock = clock
        self._pause = pause
        self._quiesced: Quiesced | None = None

    @property
    def can_start(self) -> bool:
        """Whether we know how to start and stop it."""
        return bool(self.config.unit or self.config.start) or self._recipe.starts

    @property
    def holds_up(self) -> bool:
        """Whether its users wait while it is quiesced."""
        return self._recipe.holds_up

    async def running(self) -> bool:
        """Whether a server, or what uses the file, has it open."""
        return bool(await self._holders())

    async def _holders(self) -> list[str]:
        recipe = self._recipe
        names = frozenset(self.config.processes) or recipe.servers
        return await self._blocking.run(users_of, recipe.place.directory, names)

    def tell(self, state: m.DatabaseState, **more: object) -> m.DatabaseInfo:
        """Remember and return how it is."""
        plain: dict[str, object] = {"error": "", "next_step": ""}
        self.info = self.info.model_copy(update={**plain, "state": state, **more})
        return self.info

    # ------------------------------------------------------------ backup

    async def quiesce(self, ttl_s: float) -> m.DatabaseInfo:
        """Prepare it for a freeze; raises HostError that says how to do without."""
        if not await self.running():
            return self.tell(m.DatabaseState.NOT_RUNNING, done="")
        try:
            self._quiesced = await self._recipe.quiesce(self.config.quiesce_timeout_s, ttl_s)
        except HostError as exc:
            raise HostError(
                f"{self._called} can't be prepared for the freeze: {exc.message}",
                exc.next_step
                or "take the backup with --no-quiesce: what is on the volume then is what a power "
                "loss leaves, which the database recovers from",
                exc.code,
            ) from exc
        return self.tell(m.DatabaseState.QUIESCED, done=self._quiesced.done)

    @property
    def still_quiesced(self) -> bool:
        """Whether what a `quiesce` holds is still held."""
        return self._quiesced is None or self._quiesced.holds

    async def resume(self) -> None:
        """Undo a `quiesce`; does nothing where there was none."""
        quiesced, self._quiesced = self._quiesced, None
        if quiesced is not None and quiesced.release is not None:
            await quiesced.release()

    async def resume_left_over(self) -> None:
        """Undo what an agent that died may have left."""
        await self._recipe.resume_left_over()

    # ------------------------------------------------------------ restore

    async def stop(self) -> None:
        """Stop it, and wait until it has let go of its files; raises HostError."""
        config = self.config
        if config.unit is not None:
            await self._systemctl("stop", config.stop_timeout_s)
        elif config.stop:
            await run(config.stop, timeout_s=config.stop_timeout_s)
        else:
            await self._recipe.stop(config.stop_timeout_s)
        deadline_s = self._clock.monotonic() + config.stop_timeout_s
        while holders := await self._holders():
            if self._clock.monotonic() > deadline_s:
                raise HostError(
                    f"{self._called} was stopped, and {listed(holders)} still has its files open",
                    "end what uses it, or ask again with --force",
                )
            await self._pause(POLL_S)
        self.tell(m.DatabaseState.STOPPED, done="")

    async def recover(self, *, check: bool) -> m.DatabaseInfo:
        """Start it, wait for its recovery, check it; tells how that went, and never raises."""
        began_s = self._clock.monotonic()
        fresh = {"done": "", "recover_s": 0.0, "check_s": 0.0}
        self.tell(m.DatabaseState.STARTING, **fresh)
        try:
            await self._start()
        except (RejectedError, OSError) as exc:
            return self._failed("did not start", exc)
        recovered_s = self._clock.monotonic()
        if not check or self.config.check == "none":
            return self.tell(m.DatabaseState.STARTED, recover_s=recovered_s - began_s)
        self.tell(m.DatabaseState.CHECKING, recover_s=recovered_s - began_s)
        try:
            checked = await self._recipe.check(
                quick=self.config.check == "quick", timeout_s=self.config.check_timeout_s
            )
        except (RejectedError, OSError) as exc:
            return self._failed("could not be checked", exc)
        return self._judged(checked, self._clock.monotonic() - recovered_s)

    async def _start(self) -> None:
        config = self.config
        if not await self.running():
            await self._recipe.prepare_start()
            if config.unit is not None:
                await self._systemctl("start", config.recover_timeout_s)
            elif config.start:
                await run(config.start, timeout_s=config.recover_timeout_s, keeps_running=True)
            elif self._recipe.starts:
                await self._recipe.start(config.recover_timeout_s)
        if self.can_start:
            await self._wait_until_ready()

    async def _wait_until_ready(self) -> None:
        timeout_s = self.config.recover_timeout_s
        deadline_s = self._clock.monotonic() + timeout_s
        seen_s = self._clock.monotonic()
        while not await self._recipe.ready():
            now_s = self._clock.monotonic()
            if await self.running():
                seen_s = now_s
            elif now_s - seen_s > GONE_AFTER_S:
                raise HostError("its server has ended")
            if now_s > deadline_s:
                raise HostError(f"it was not ready within {timeout_s:.0f} s")
            await self._pause(POLL_S)

    def _judged(self, checked: Checked, took_s: float) -> m.DatabaseInfo:
        if not checked.done:
            return self.tell(m.DatabaseState.STARTED)
        if not checked.problems:
            return self.tell(m.DatabaseState.GOOD, done=checked.done, check_s=took_s)
        return self.tell(
            m.DatabaseState.FAILED,
            done=checked.done,
            check_s=took_s,
            error=f"{self._called} runs, but its check found: {listed(checked.problems)}",
            next_step="restore an earlier backup, or repair it with its own tools; then run "
            f"`{self._again}`",
        )

    def _failed(self, what: str, exc: RejectedError | OSError) -> m.DatabaseInfo:
        message = exc.message if isinstance(exc, RejectedError) else str(exc)
        hint = exc.next_step if isinstance(exc, RejectedError) else ""
        log = f"`journalctl -u {self.config.unit}`" if self.config.unit else "its server's log"
        return self.tell(
            m.DatabaseState.FAILED,
            error=f"{self._called} {what}: {message}",
            next_step=f"{hint or f'look at {log}'}; then run `{self._again}`",
        )

    async def _systemctl(self, act: str, timeout_s: float) -> None:
        assert self.config.unit is not None
        program = need_program("systemctl", "systemd")
        await run([program, act, "--", self.config.unit], timeout_s=timeout_s)

    @property
    def _called(self) -> str:
        return f"the database '{self.config.name}' ({self.config.kind})"

    @property
    def _again(self) -> str:
        return f"trilun db check {self._recipe.place.data_set}"
