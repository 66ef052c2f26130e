"""`trilun-agent`: the agent on a host.

Owns wiring: configuration, logs, broker, initiator, data sets and jobs; and the order in which
they start and stop. Must not decide anything. Ends with 0 after SIGTERM or SIGINT, with 2 for a
configuration that can't be used, with 1 when the host lacks what it needs.

At a clean stop, file systems that nobody uses are unmounted and detached; busy ones stay mounted
and keep working, since what attaches them outlives the agent (KillMode=process in the unit).
"""

from __future__ import annotations

import argparse
import asyncio
import os
import secrets
import signal
import sys
import time
from contextlib import AsyncExitStack
from importlib import metadata
from pathlib import Path

import structlog

from controller.api import messages as m
from controller.api.errors import RejectedError
from controller.service.bus import Bus
from controller.service.client import ApiClient
from controller.service.config import ConfigError, load_toml
from controller.service.logs import set_up_logging
from controller.service.mqtt import Broker
from controller.service.notify import Notifier
from controller.service.reload import Reloader
from controller.service.requests import JournalError, RequestJournal
from hostagent.agent import Agent
from hostagent.attach.choice import choose_attacher
from hostagent.config import AgentConfig
from hostagent.errors import HostError
from hostagent.filesystem.volumes import HostVolumes
from hostagent.first_volumes import FirstVolumeKeeper
from hostagent.jobs.backup import BACKUP
from hostagent.jobs.engine import JobEngine
from hostagent.jobs.group_backup import GROUP_BACKUP
from hostagent.jobs.group_restore import GROUP_RESTORE
from hostagent.jobs.look import look_table
from hostagent.jobs.ports import Ports
from hostagent.jobs.restore import RESTORE
from hostagent.jobs.steps import JobTable
from hostagent.jobs.whole import WHOLE
from hostagent.looking.desk import LookDesk
from hostagent.looking.first import FirstFiles
from hostagent.looking.rooms import Rooms
from hostagent.looking.verbs import LookVerbs
from hostagent.programs import Blocking
from hostagent.records import RecordError, RecordStore
from hostagent.recovery.keeper import DatabaseKeeper
from hostagent.recovery.sets import BackupSets
from hostagent.restore_host import RestoreMounts

DEFAULT_CONFIG = Path("/etc/trilun/agent.toml")
PATIENCE_S = 60.0
"""How long a node or broker that is away is waited for before a job's command fails."""
SHORT_CALL_S = 30.0
LONG_CALL_S = 330.0
"""For what unmounts, mounts or writes out at the other end, journal replay included."""
STATUS_EVERY_S = 5.0
LIVE_KEYS = frozenset({"log.level", "log.format"})
"""What SIGHUP takes over."""
LONG_VERBS = frozenset(
    {"fs.release", "fs.reclaim", "fs.freeze", "fs.extents", "backup.mark", "group.mark"}
)

_log: structlog.stdlib.BoundLogger = structlog.get_logger(__name__)


class NodeCalls:
    """Commands to other nodes over MQTT; implements `jobs.ports.Nodes`."""

    def __init__(self, client: ApiClient) -> None:
        self._client = client

    async def call(self, node: str, verb: str, params: m.Params, request_id: str | None) -> m.Info:
        """Ask a node; see `ApiClient.call`."""
        timeout_s = LONG_CALL_S if verb in LONG_VERBS else SHORT_CALL_S
        return await self._client.call(node, verb, params, timeout_s, request_id)


class _Clock:
    """The machine's clocks."""

    def monotonic(self) -> float:
        return time.monotonic()

    def time(self) -> float:
        return time.time()


class Daemon:
    """One agent, from `run` to the setting of `stopping`."""

    def __init__(self, config: AgentConfig, path: Path, notifier: Notifier | None = None) -> None:
        """`path`: the configuration's file, for `reload`."""
        self.stopping = asyncio.Event()
        self.ready = asyncio.Event()
        self._config = config
        self._notifier = notifier or Notifier(None)
        self._reloader = Reloader(path, config, LIVE_KEYS, _set_up_logging)
        self._jobs: JobEngine | None = None

    def reload(self) -> None:
        """Read the configuration file again, and take over what can be."""
        if not self.ready.is_set() or self.stopping.is_set():
            _log.warning("no reload: the agent is starting or stopping")
            return
        self._notifier.reloading(time.monotonic())
        self._reloader.reload()
        self._notifier.ready(self._status_line())

    async def run(self) -> None:
        """Serve until `stopping` is set. Raises HostError, RecordError, JournalError, OSError."""
        config = self._config
        for directory in (config.state_dir, config.runtime_dir):
            directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        attacher, why = choose_attacher(config)
        _log.info("initiator chosen", initiator=why)
        password = config.broker.password()
        broker = Broker(config.broker.host, config.broker.port, config.broker.username, password)
        volumes = HostVolumes(attacher, config.runtime_dir)
        async with AsyncExitStack() as stack:
            blocking = Blocking()
            stack.callback(blocking.close)
            journal = await RequestJournal.open(config.state_dir / "requests.log")
            stack.push_async_callback(journal.close)
            client = ApiClient(
                broker,
                client_id=f"{config.node[:50]}.jobs",
                new_id=lambda: f"{config.node[:40]}.{secrets.token_hex(8)}",
                patience_s=PATIENCE_S,
            )
            nodes = NodeCalls(await stack.enter_async_context(client))
            databases, first = await self._keepers(stack, volumes, blocking, nodes)
            bus_box: list[Bus] = []
            ports = Ports(
                nodes=nodes,
                host=RestoreMounts(volumes, config.runtime_dir, blocking),
                databases=BackupSets(blocking),
                first=first,
                clock=_Clock(),
                publish=lambda info: bus_box[0].publish_state("job", info.id, info),
                pause=asyncio.sleep,
                forget=lambda job: bus_box[0].publish_state("job", job, None),
            )
            rooms = Rooms(ports.clock)
            jobs = JobEngine(
                config.node, _tables(rooms), RecordStore(config.state_dir / "jobs"), blocking, ports
            )
            self._jobs = jobs
            files, desk = FirstFiles(first, blocking), LookDesk(rooms, blocking, nodes)
            looking = LookVerbs(files, desk, rooms, jobs)
            agent = Agent(config, first, databases, jobs, nodes, looking)
            bus = Bus(broker, status=self._status(), handler=agent.handle, journal=journal)
            bus_box.append(bus)
            await first.start()
            stack.push_async_callback(first.stop)
            await jobs.load({entry.name: entry for entry in config.data_set})
            stack.push_async_callback(jobs.stop)
            await blocking.run(_remove_strays, volumes, first.keys, jobs.list_jobs())
            await stack.enter_async_context(bus)
            self._notifier.ready(self._status_line())
            self.ready.set()
            self._tell_service_manager("")
            await self.stopping.wait()
            self._notifier.stopping()

    async def _keepers(
        self, stack: AsyncExitStack, volumes: HostVolumes, blocking: Blocking, nodes: NodeCalls
    ) -> tuple[DatabaseKeeper, FirstVolumeKeeper]:
        """What host 1 keeps: the databases, started, and the first volumes, not yet."""
        entries, directory = self._config.data_set, self._config.state_dir
        store = RecordStore(directory / "databases")
        databases = DatabaseKeeper(entries, store, blocking, _Clock())
        await databases.start()
        stack.push_async_callback(databases.stop)
        store = RecordStore(directory / "data-sets")
        return databases, FirstVolumeKeeper(entries, volumes, databases, store, blocking, nodes)

    def _tell_service_manager(self, told: str) -> None:
        """Feed the watchdog from the loop, to the end of a stop, which may unmount for minutes."""
        self._notifier.watchdog()
        line = self._status_line()
        if line != told and not self.stopping.is_set():
            self._notifier.status(line)
        interval_s = min(self._notifier.watchdog_interval_s or STATUS_EVERY_S, STATUS_EVERY_S)
        asyncio.get_running_loop().call_later(interval_s, self._tell_service_manager, line)

    def _status_line(self) -> str:
        """What `systemctl status` shows: `1 data sets; running: restore of demo`."""
        jobs = self._jobs.list_jobs() if self._jobs is not None else []
        running = [f"{j.kind.value} of {j.data_set}" for j in jobs if j.state is m.JobState.RUNNING]
        text = f"{len(self._config.data_set)} data sets"
        return text + (f"; running: {', '.join(running)}" if running else "")

    def _status(self) -> m.NodeStatus:
        return m.NodeStatus(
            node=self._config.node,
            kind=m.NodeKind.AGENT,
            online=True,
            version=_version(),
            started_at=time.time(),
            data_sets=self._config.references(),
        )


def _tables(rooms: Rooms) -> dict[m.JobKind, JobTable]:
    """The steps of every kind of job."""
    return {
        m.JobKind.BACKUP: BACKUP,
        m.JobKind.GROUP_BACKUP: GROUP_BACKUP,
        m.JobKind.RESTORE: RESTORE,
        m.JobKind.WHOLE: WHOLE,
        m.JobKind.GROUP_RESTORE: GROUP_RESTORE,
        m.JobKind.LOOK: look_table(rooms),
    }


def _remove_strays(volumes: HostVolumes, first: set[str], jobs: list[m.JobInfo]) -> None:
    """Unmount what jobs left that have ended, or whose records are gone."""
    running = {job.id.partition("-")[2] for job in jobs if job.state is m.JobState.RUNNING}
    for key in volumes.keys():  # noqa: SIM118 - a method
        if key in first or key.partition("-")[2] in running:
            continue
        _log.warning("unmounting what an earlier life left behind", key=key)
        try:
            volumes.unmount(key, abandon=True)
        except HostError as exc:
            _log.error("can't be unmounted", key=key, why=exc.message, next_step=exc.next_step)


def _version() -> str:
    try:
        return metadata.version("trilun")
    except metadata.PackageNotFoundError:
        return "0"


def _set_up_logging(config: AgentConfig) -> None:
    set_up_logging(config.log.level, config.log.format, program="trilun-agent", node=config.node)


async def _main(config: AgentConfig, path: Path) -> None:
    daemon = Daemon(config, path, Notifier.from_environment(os.environ))
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, daemon.stopping.set)
    loop.add_signal_handler(signal.SIGHUP, daemon.reload)
    await daemon.run()


def main() -> int:
    """The command line of `trilun-agent`; returns the exit code."""
    parser = argparse.ArgumentParser(prog="trilun-agent", description="trilun's agent on a host")
    parser.add_argument("--config", type=Path, default=DEFAULT_CONFIG, metavar="FILE")
    parser.add_argument(
        "--check-config", action="store_true", help="check the configuration file and exit"
    )
    options = parser.parse_args()
    try:
        config = load_toml(options.config, AgentConfig)
    except ConfigError as exc:
        sys.stderr.write("".join(f"trilun-agent: {line}\n" for line in exc.lines))
        return 2
    if options.check_config:
        sys.stdout.write(f"{options.config}: ok\n")
        return 0
    _set_up_logging(config)
    # A reload that is asked for before there is anything to reload must not end the process.
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        asyncio.run(_main(config, options.config))
    except (RejectedError, RecordError, JournalError, ConfigError, OSError) as exc:
        sys.stderr.write(f"trilun-agent: {exc}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
