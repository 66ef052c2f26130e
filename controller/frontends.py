"""Which front end offers this controller's volumes: the embedded target or the kernel's.

Owns the choice, and says it. Must not know volumes. Fails with OSError where a portal's address
can't be had, `LioUnavailableError` where the kernel was asked for and can't.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass, field

import structlog

from controller.embedded import EmbeddedExporter
from controller.lio import LioExporter, lio_settings
from controller.service.config import ConfigError, TargetConfig
from targets.iscsi.chap import ChapCredentials
from targets.iscsi.server import IscsiServer
from targets.lio.probe import LioUnavailableError
from targets.lio.target import LioTarget

log: structlog.stdlib.BoundLogger = structlog.get_logger(__name__)


@dataclass(slots=True)
class FrontEnd:
    """The exporter that was chosen."""

    kind: str
    """`embedded` or `lio`."""
    exporter: EmbeddedExporter | LioExporter
    why: str = ""
    """Why this one, where the configuration left it open."""
    changed: Callable[[], None] = field(default=lambda: None)
    """Called when `lines` are others."""

    @property
    def lines(self) -> list[str]:
        """What operators have to know of it; nothing when all is as it was asked for."""
        chosen = [f"target {self.kind}: {self.why}"] if self.why else []
        return chosen + list(self.problems)

    @property
    def problems(self) -> tuple[str, ...]:
        """What is not as it should be."""
        return self.exporter.problems if isinstance(self.exporter, LioExporter) else ()

    async def settle(self) -> None:
        """Begin to show what was offered; `shown` returns when hosts can find it."""
        if isinstance(self.exporter, LioExporter):
            await self.exporter.settle()

    async def shown(self, waiting: Callable[[str], None]) -> None:
        """Return when hosts can find all that was offered; `waiting` hears why they can't yet."""
        exporter = self.exporter
        while isinstance(exporter, LioExporter) and (why := exporter.held_up):
            waiting("; ".join(why))
            await exporter.another_pass()

    async def close(self) -> None:
        """Let go of portals and devices."""
        await self.exporter.close()


def check_front_end(node: str, config: TargetConfig, chap: ChapCredentials | None) -> None:
    """Raise ConfigError for what the front end can't be asked, before anything is started."""
    if config.kind == "lio":
        lio_settings(node, config.listen, chap)


async def open_front_end(node: str, config: TargetConfig, chap: ChapCredentials | None) -> FrontEnd:
    """Open what the configuration asks for; with `auto` the kernel's, if it can."""
    if config.kind == "embedded":
        return FrontEnd("embedded", await _embedded(config, chap))
    why = ""
    if config.kind == "auto":
        why = "the kernel has LIO and TCMU"
    try:
        exporter = await _lio(node, config, chap)
    except (LioUnavailableError, ConfigError) as error:
        if config.kind == "lio":
            raise
        why = " ".join(str(error).split())
        log.info("the embedded target serves hosts", why=why)
        return FrontEnd("embedded", await _embedded(config, chap), why)
    log.info("the kernel's target serves hosts", why=why or '[target] kind = "lio"')
    front_end = FrontEnd("lio", exporter, why)
    exporter.on_change(lambda: front_end.changed())
    return front_end


async def _embedded(config: TargetConfig, chap: ChapCredentials | None) -> EmbeddedExporter:
    server = IscsiServer(clock=time.monotonic, random_bytes=secrets.token_bytes)
    exporter = EmbeddedExporter(server, chap)
    for portal in config.listen:
        await exporter.listen(portal.host, portal.port)
    return exporter


async def _lio(node: str, config: TargetConfig, chap: ChapCredentials | None) -> LioExporter:
    settings = lio_settings(node, config.listen, chap)
    target = LioTarget(settings, clock=time.monotonic)
    await target.start()
    return LioExporter(target, settings)
