"""Anything else: a command of the operator's, called once for each thing that is to be done.

It is called as `COMMAND… freeze|thaw|stop|start|check` with TRILUN_DATA_SET, TRILUN_DATABASE
and TRILUN_PATH in its environment; exit code 0 says that it is done. Owns how it is called.
Must not know what it does. Fails with ToolError, which carries what it said.
"""

from __future__ import annotations

from hostagent.errors import ToolError
from hostagent.programs import Blocking
from hostagent.recovery.commands import run
from hostagent.recovery.config import HookAct, HookConfig
from hostagent.recovery.recipe import Checked, Place, Quiesced, Recipe

THAW_TIMEOUT_S = 60.0
MAX_PROBLEMS = 20


class Hook(Recipe):
    """One database that only its operator knows."""

    holds_up = True

    def __init__(self, config: HookConfig, place: Place, blocking: Blocking) -> None:
        super().__init__(place, blocking)
        self._config = config
        self.starts = {"stop", "start"} <= set(config.does)

    async def quiesce(self, timeout_s: float, ttl_s: float) -> Quiesced:
        """`freeze`, and `thaw` whatever came of it."""
        del ttl_s
        if not self._does("freeze"):
            return Quiesced("the hook prepares nothing")
        try:
            await self._call("freeze", timeout_s)
        except BaseException:
            await self._thaw()
            raise
        return Quiesced("the hook's freeze", None, self._thaw)

    async def resume_left_over(self) -> None:
        """What an agent froze that died: `thaw`."""
        if self._does("freeze"):
            await self._thaw()

    async def start(self, timeout_s: float) -> None:
        """`start`: returns when it serves."""
        await self._call("start", timeout_s, keeps_running=True)

    async def stop(self, timeout_s: float) -> None:
        """`stop`: returns when nothing of the file system is in use."""
        await self._call("stop", timeout_s)

    async def check(self, *, quick: bool, timeout_s: float) -> Checked:
        """`check`: what it says when it fails is what it found."""
        del quick
        if not self._does("check"):
            return Checked("", [])
        try:
            await self._call("check", timeout_s)
        except ToolError as exc:
            return Checked("the hook's check", (exc.output or exc.message).splitlines())
        return Checked("the hook's check", [])

    async def _thaw(self) -> None:
        if self._does("thaw"):
            await self._call("thaw", THAW_TIMEOUT_S)

    def _does(self, act: HookAct) -> bool:
        return act in self._config.does

    async def _call(self, act: HookAct, timeout_s: float, *, keeps_running: bool = False) -> None:
        await run(
            [*self._config.command, act],
            timeout_s=timeout_s,
            keeps_running=keeps_running,
            environment={
                "TRILUN_DATA_SET": self.place.data_set,
                "TRILUN_DATABASE": self._config.name,
                "TRILUN_PATH": str(self.place.directory),
            },
        )
