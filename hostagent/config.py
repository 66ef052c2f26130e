"""The agent's configuration file.

Owns its shape. Must not touch the host: a configuration is checked before anything is started.
Fails with the loader's `ConfigError`, one line an error; unknown keys are errors.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from controller.api.backups import MAX_SLOTS
from controller.api.messages import DataSetRef, Name
from controller.service.config import BrokerConfig, ChapConfig, LogConfig, Section
from hostagent.recovery.config import MAX_DATABASES, DatabaseConfig, check_databases

IQN_PATTERN = r"^(iqn\.\d{4}-\d{2}\.[a-z0-9.-]+(:[^\s]{1,180})?|eui\.[0-9A-F]{16})$"


class AttachConfig(Section):
    """How LUNs become block devices on this host."""

    kind: Literal["auto", "open-iscsi", "qemu"] = "auto"
    initiator_name: Annotated[str, Field(pattern=IQN_PATTERN, max_length=223)] | None = None
    """None: `iqn.2026-11.io.trilun:host.<node>`."""
    chap: ChapConfig | None = None
    timeout_s: Annotated[float, Field(gt=0, le=600)] = 30.0

    @model_validator(mode="after")
    def _mutual_chap_needs_the_kernel(self) -> AttachConfig:
        if self.kind == "qemu" and self.chap is not None and self.chap.mutual_user is not None:
            raise ValueError("the user-space initiator has no mutual CHAP: use kind 'open-iscsi'")
        return self


class BackupSlot(Section):
    """Where one backup is kept: a third volume, and the local pair that fills it."""

    volume: Name
    pair: Name


class DataSetConfig(Section):
    """One data set: its volumes, its pairs, two hosts, and our part in it."""

    name: Annotated[Name, Field(max_length=48)]
    part: Literal["host1", "host2"]
    filesystem: Literal["ext4", "xfs", "btrfs"]
    primary: Name
    """Controller of the first volume."""
    first: Name
    remote_pair: Name
    secondary: Name
    """Controller of the second and the third volume."""
    second: Name
    local_pair: Name | None = None
    third: Name | None = None
    """With `local_pair`: the short way to name a single backup slot."""
    backup: list[BackupSlot] = Field(default_factory=list, max_length=MAX_SLOTS)
    """The backup slots, each of the second volume's size."""
    host1: Name
    """Agent on the host that uses the first volume."""
    host2: Name
    """Agent on the host that carries restores out."""
    mountpoint: Path
    """Where host 1 mounts the first volume."""
    mount_with: Literal["kernel", "fuse2fs", "auto"] = "auto"
    mount_at_start: bool = True
    """Host 1: attach and mount when the agent starts, unless a restore has it."""
    freeze_ttl_s: Annotated[float, Field(gt=0, le=60)] = 10.0
    """Host 1: a backup's freeze ends by itself after this, whatever becomes of the agent."""

    database: list[DatabaseConfig] = Field(default_factory=list, max_length=MAX_DATABASES)
    """Host 1: the databases on the first volume."""

    @property
    def slots(self) -> list[BackupSlot]:
        """Every backup slot, in the order they were named."""
        if self.third is not None and self.local_pair is not None:
            return [BackupSlot(volume=self.third, pair=self.local_pair)]
        return list(self.backup)

    @model_validator(mode="after")
    def _consistent(self) -> DataSetConfig:
        path = self.mountpoint
        if not path.is_absolute() or ".." in path.parts or path == Path("/"):
            raise ValueError("mountpoint must be an absolute path below /, without '..'")
        if self.mount_with == "fuse2fs" and self.filesystem != "ext4":
            raise ValueError("mount_with 'fuse2fs' can mount ext4 only")
        if self.primary == self.secondary:
            raise ValueError("primary and secondary must be two controllers")
        self._check_slots()
        check_databases(self.database)
        return self

    def _check_slots(self) -> None:
        if (self.third is None) != (self.local_pair is None):
            raise ValueError("third and local_pair go together")
        if self.third is not None and self.backup:
            raise ValueError("third and local_pair are the short way for one [[data_set.backup]]")
        if not self.slots:
            raise ValueError("no backup slot: add [[data_set.backup]] with volume and pair")
        volumes = [slot.volume for slot in self.slots]
        if self.second in volumes:
            raise ValueError("second and third must be two volumes")
        pairs = [slot.pair for slot in self.slots]
        for what, names in (("volume", volumes), ("pair", [*pairs, self.remote_pair])):
            if len(set(names)) < len(names):
                raise ValueError(f"each backup slot needs a {what} of its own")


class AgentConfig(Section):
    """Everything an agent is told at its start."""

    node: Name
    state_dir: Path
    runtime_dir: Path
    """Sockets, device files and the mount points of restores; needs not survive a boot."""
    broker: BrokerConfig = BrokerConfig()
    log: LogConfig = LogConfig()
    attach: AttachConfig = AttachConfig()
    data_set: Annotated[list[DataSetConfig], Field(default_factory=list, max_length=256)]

    @model_validator(mode="before")
    @classmethod
    def _default_directories(cls, data: Any) -> Any:
        if not isinstance(data, dict) or not isinstance(data.get("node"), str):
            return data
        return {
            "state_dir": f"/var/lib/trilun/{data['node']}",
            "runtime_dir": f"/run/trilun/{data['node']}",
            **data,
        }

    @model_validator(mode="after")
    def _consistent(self) -> AgentConfig:
        seen: set[str] = set()
        for entry in self.data_set:
            if entry.name in seen:
                raise ValueError(f"data_set: '{entry.name}' is there twice")
            seen.add(entry.name)
            own = entry.host1 if entry.part == "host1" else entry.host2
            if own != self.node:
                raise ValueError(
                    f"data_set '{entry.name}': part is {entry.part}, "
                    f"so {entry.part} must be this node"
                )
        for key in ("state_dir", "runtime_dir"):
            if not getattr(self, key).is_absolute():
                raise ValueError(f"{key} must be an absolute path")
        return self

    @property
    def initiator_name(self) -> str:
        """The name this host logs in with."""
        return self.attach.initiator_name or f"iqn.2026-11.io.trilun:host.{self.node.lower()}"

    def find(self, name: str) -> DataSetConfig | None:
        """The data set of that name, if this agent has it."""
        return next((entry for entry in self.data_set if entry.name == name), None)

    def references(self) -> list[DataSetRef]:
        """What the agent's status tells of its data sets."""
        return [
            DataSetRef(
                name=entry.name,
                part=entry.part,
                mountpoint=str(entry.mountpoint),
                primary=entry.primary,
                remote_pair=entry.remote_pair,
            )
            for entry in self.data_set
        ]
