"""`trilund`: one controller as a process.

Owns start-up, the signals, and the order in which everything stops. Must not decide anything a
node decides. Exits with 2 and one line an error when the configuration is wrong, with 1 and one
line when the world is (an address in use, a damaged catalogue).
"""

from __future__ import annotations

import argparse
import asyncio
import os
import secrets
import signal
import sys
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import structlog

from controller import __version__
from controller.api import messages as m
from controller.api.topics import StateKind
from controller.api.verbs import Verb
from controller.frontends import FrontEnd, check_front_end, open_front_end
from controller.link.tcp import TcpNetwork
from controller.link.transport import Peer
from controller.node import LoopClock, Node, NodeSettings, Surroundings
from controller.service.boot import boot_id
from controller.service.bus import Answer, Bus
from controller.service.config import (
    ChapConfig,
    ConfigError,
    ControllerConfig,
    NoCredentialsError,
    load_toml,
    read_secret,
)
from controller.service.logs import set_up_logging
from controller.service.mqtt import Broker
from controller.service.notify import Notifier
from controller.service.reload import Reloader
from controller.service.requests import JournalError, RequestJournal
from controller.volume.file import DirectoryDisk
from controller.volume.offload import ThreadOffload
from controller.volume.slots import CorruptError
from controller.volume.store import StoreError
from controller.volume.superblock import IntentSettings
from targets.iscsi.chap import ChapCredentials
from targets.lio.loop import DirectLoop
from targets.lio.probe import LioUnavailableError

log: structlog.stdlib.BoundLogger = structlog.get_logger(__name__)

_UNFIT = (OSError, StoreError, CorruptError, JournalError, ConfigError, LioUnavailableError)
"""What keeps a controller from running, and is no mistake of ours."""

DEFAULT_CONFIG = Path("/etc/trilun/controller.toml")
STATUS_EVERY_S = 5.0
NEXT_WORD_WITHIN_S = 300.0
"""Longer than a pass over the kernel's target can take, with all of its deadlines."""
LIVE_KEYS = frozenset({"log.level", "log.format", "resync.rate_limit_bytes_per_s"})
"""What SIGHUP takes over. The rate limit is that of pairs made from then on."""


class BusPublisher:
    """Publishes through the bus, and the status only when it has changed."""

    def __init__(self, node: str, front_end: Callable[[], list[str]]) -> None:
        """`front_end`: what operators have to know of it, a sentence each."""
        self.bus: Bus
        self._front_end = front_end
        self._peers: dict[str, bool] = {}
        self._detail = ""
        self._status = m.NodeStatus(
            node=node,
            kind=m.NodeKind.CONTROLLER,
            online=True,
            version=__version__,
            started_at=time.time(),
        )

    @property
    def status(self) -> m.NodeStatus:
        """The status as it was published last."""
        return self._status

    def publish_state(
        self, kind: StateKind, name: str, info: m.VolumeInfo | m.PairInfo | None
    ) -> None:
        """Set or clear one object's retained state."""
        self.bus.publish_state(kind, name, info)

    def publish_status(self, peers: dict[str, bool], detail: str) -> None:
        """Set the node's retained status."""
        self._peers, self._detail = peers, detail
        self.refresh()

    def refresh(self) -> None:
        """Publish the status again where the front end changes it."""
        detail = "; ".join([*self._front_end(), *filter(None, [self._detail])])
        status = self._status.model_copy(update={"peers": self._peers, "detail": detail})
        if status != self._status:
            self._status = status
            self.bus.publish_status(status)


def chap_credentials(config: ChapConfig | None) -> ChapCredentials | None:
    """Read the secrets a configuration names; ConfigError when a file can't be used."""
    if config is None:
        return None
    mutual_secret = None
    if config.mutual_secret_file is not None:
        mutual_secret = read_secret(config.mutual_secret_file).get_secret_value()
    try:
        return ChapCredentials(
            user=config.user,
            secret=read_secret(config.secret_file).get_secret_value(),
            mutual_user=config.mutual_user,
            mutual_secret=mutual_secret,
        )
    except ValueError as error:
        raise ConfigError([f"target.chap: {error}"]) from error


async def run(config: ControllerConfig, path: Path) -> None:
    """Run a controller until SIGTERM or SIGINT; SIGHUP reads `path` again."""
    loop = asyncio.get_running_loop()
    notifier = Notifier.from_environment(os.environ)
    offload = ThreadOffload(loop)
    chap = chap_credentials(config.target.chap)
    front_end = await open_front_end(config.node, config.target, chap)
    publisher = BusPublisher(config.node, lambda: front_end.lines)
    clock = LoopClock()
    world = Surroundings(
        disk=DirectoryDisk(config.volume_dir, offload.lane),
        meta_disk=DirectoryDisk(config.state_dir, offload.lane),
        network=TcpNetwork(),
        exporter=front_end.exporter,
        clock=clock,
        new_id=lambda: secrets.token_hex(16),
        boot_id=await asyncio.to_thread(boot_id, os.environ),
    )
    node = Node(_settings(config), world, publisher)

    async def handle(verb: Verb, params: m.Params, _request: m.Request) -> Answer:
        outcome = await node.commands.carry_out(verb.name, params)
        return Answer(verdict=outcome.verdict, message=outcome.message, result=outcome.result)

    journal = await RequestJournal.open(config.state_dir / "requests.jsonl")
    password = config.broker.password()
    publisher.bus = Bus(
        Broker(config.broker.host, config.broker.port, config.broker.username, password),
        status=publisher.status,
        handler=handle,
        journal=journal,
    )
    stopping = asyncio.Event()
    for signum in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(signum, stopping.set)
    await node.start()
    await front_end.settle()
    front_end.changed = publisher.refresh
    publisher.bus.start()
    publisher.refresh()
    status = partial(_status_line, node, front_end)
    if await _shown(front_end, notifier, stopping):
        notifier.ready(status())
    _tell_service_manager(notifier, node, clock, status)
    reloader = Reloader(path, config, LIVE_KEYS, lambda fresh: _take_over(node, fresh))
    loop.add_signal_handler(signal.SIGHUP, _reload, reloader, notifier, clock, status)
    log.info("controller is up", node=config.node, portals=front_end.exporter.portals)
    await stopping.wait()
    loop.add_signal_handler(signal.SIGHUP, log.warning, "no reload: the controller stops")
    log.info("controller stops", node=config.node)
    notifier.stopping()
    await publisher.bus.stop()
    await node.stop()
    await front_end.close()
    await journal.close()
    offload.close()


def _settings(config: ControllerConfig) -> NodeSettings:
    return NodeSettings(
        node=config.node,
        link_host=config.link.listen.host,
        link_port=config.link.listen.port,
        peers=[Peer(name, at.host, at.port) for name, at in config.peers.items()],
        intent=IntentSettings(config.intent.extent_bytes, config.intent.hot_extents),
        rate_limit_bytes_per_s=config.resync.rate_limit_bytes_per_s,
    )


async def _shown(front_end: FrontEnd, notifier: Notifier, stopping: asyncio.Event) -> bool:
    """Return when hosts can find all volumes, or when this is to stop: False.

    Until then the service isn't ready. It mirrors and takes commands, and its status says what is
    in the way.
    """

    told = ""

    def waiting(why: str) -> None:
        nonlocal told
        if why != told:
            log.warning("volumes can't be found by hosts yet", why=why)
        told = why
        notifier.starting(f"volumes can't be found by hosts yet: {why}", NEXT_WORD_WITHIN_S)

    shown = asyncio.ensure_future(front_end.shown(waiting))
    stop = asyncio.ensure_future(stopping.wait())
    await asyncio.wait({shown, stop}, return_when=asyncio.FIRST_COMPLETED)
    stop.cancel()
    if shown.done():
        shown.result()
        return True
    shown.cancel()
    return False


def _reload(
    reloader: Reloader[ControllerConfig],
    notifier: Notifier,
    clock: LoopClock,
    status: Callable[[], str],
) -> None:
    notifier.reloading(clock.now_s())
    reloader.reload()
    notifier.ready(status())


def _take_over(node: Node, config: ControllerConfig) -> None:
    _set_up_logging(config)
    limit = config.resync.rate_limit_bytes_per_s
    node.settings = replace(node.settings, rate_limit_bytes_per_s=limit)


def _set_up_logging(config: ControllerConfig) -> None:
    set_up_logging(config.log.level, config.log.format, program="trilund", node=config.node)


def _status_line(node: Node, front_end: FrontEnd) -> str:
    """What `systemctl status` shows: `3 volumes, 1 failed; pairs: 1 COPY, 1 PAIR`."""
    volumes = node.volumes.all()
    failed = sum(1 for shelved in volumes if not shelved.record.healthy)
    states = Counter(owner.record.state.value for owner in node.pairs.owners())
    count = f"{len(volumes)} volume{'' if len(volumes) == 1 else 's'}"
    text = count + (f", {failed} failed" if failed else "")
    pairs = ", ".join(f"{number} {state}" for state, number in sorted(states.items()))
    return "; ".join([text, f"pairs: {pairs or 'none'}", *front_end.problems])


def _tell_service_manager(
    notifier: Notifier, node: Node, clock: LoopClock, status: Callable[[], str]
) -> None:
    """Feed from the loop that serves hosts: when that stands still, so does the feeding."""
    interval_s = min(notifier.watchdog_interval_s or STATUS_EVERY_S, STATUS_EVERY_S)
    told = ""

    def tell() -> None:
        nonlocal told
        notifier.watchdog()
        line = status()
        if line != told and not node.stopping:
            told = line
            notifier.status(line)
        clock.later(interval_s, tell)

    tell()


def main() -> None:
    """Entry point."""
    parser = argparse.ArgumentParser(prog="trilund", description="A trilun storage controller.")
    parser.add_argument("--config", type=Path, default=DEFAULT_CONFIG, metavar="FILE")
    parser.add_argument("--check-config", action="store_true", help="check the file and exit")
    parser.add_argument("--version", action="version", version=f"trilund {__version__}")
    arguments = parser.parse_args()
    try:
        config = load_toml(arguments.config, ControllerConfig)
        try:
            check_front_end(config.node, config.target, chap_credentials(config.target.chap))
            config.broker.password()
        except NoCredentialsError as error:
            if not arguments.check_config:
                raise
            sys.stderr.write(f"not checked: {error}\n")
    except ConfigError as error:
        sys.stderr.write("\n".join(error.lines) + "\n")
        sys.exit(2)
    if arguments.check_config:
        sys.stdout.write(f"{arguments.config}: ok\n")
        return
    _set_up_logging(config)
    # A reload that is asked for before there is anything to reload must not end the process.
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    log.info("controller starts", version=__version__, config=str(arguments.config))
    try:
        # The embedded target's sockets gain nothing from a loop that serves devices.
        loop_factory = None if config.target.kind == "embedded" else DirectLoop
        with asyncio.Runner(loop_factory=loop_factory) as runner:
            runner.run(run(config, arguments.config))
    except _UNFIT as error:
        log.error("controller can't run", reason=str(error))  # noqa: TRY400
        sys.exit(1)


if __name__ == "__main__":
    main()
