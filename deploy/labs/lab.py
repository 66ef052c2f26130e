"""The lab as a whole: its directory, its hosts, its network, and what is broken in it.

Owns everything below its directory and every process noted in there, across commands: `lab.json`
says what was made, and is empty while it is being made. `down` ends it all by pid and removes the
directory, at whatever point a command was killed. Fails with LabError.
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from deploy.labs import needs, package, roles
from deploy.labs.host import NOTE, Host
from deploy.labs.layer import LAB, install_boot
from deploy.labs.links import Links
from deploy.labs.network import Network
from deploy.labs.problem import LabError
from deploy.labs.process import PATH, Process
from deploy.labs.terminated import unwound
from deploy.pair import BIN

DEFAULT_DIRECTORY = Path("/var/tmp/trilun-lab")  # noqa: S108
COMMAND_WITHIN_S = 300.0
HOLDER = "holder"
NETWORK_SCRIPT = f"{LAB}/network"


def directory_of_choice() -> Path:
    """`$TRILUN_LAB`, or the default."""
    return Path(os.environ.get("TRILUN_LAB") or DEFAULT_DIRECTORY).absolute()


@contextmanager
def alone(directory: Path) -> Iterator[None]:
    """One command at a time changes a lab. The lock's file is beside the directory, and goes."""
    lock = directory.with_name(directory.name + ".lock")
    lock.parent.mkdir(parents=True, exist_ok=True)
    while True:
        fd = os.open(lock, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
        fcntl.flock(fd, fcntl.LOCK_EX)
        if lock.exists() and lock.stat().st_ino == os.fstat(fd).st_ino:
            break
        os.close(fd)
    try:
        yield
    finally:
        lock.unlink()
        os.close(fd)


@dataclass
class Lab:
    """A lab that is up."""

    directory: Path
    network: Network
    names: list[str]
    target: str = "lio"
    links: Links = field(init=False)
    hosts: dict[str, Host] = field(init=False)

    def __post_init__(self) -> None:
        self.links = Links({name: roles.ADDRESSES[name] for name in self.names})
        self.hosts = {name: self._host(name) for name in self.names}

    def _host(self, name: str) -> Host:
        return Host(
            name,
            roles.ADDRESSES[name],
            self.directory / "hosts" / name,
            self.network,
            self.directory / "init",
            package=self.directory / "trilun",
        )

    # ------------------------------------------------------------ up and down

    @classmethod
    def up(cls, directory: Path, names: list[str], target: str) -> Lab:
        """Make it, or find it as it is; all hosts have power afterwards, and have booted."""
        needs.check(whole_lab=True)
        with alone(directory):
            lab = cls._find(directory)
            if lab is None:
                lab = cls._make(directory, names, target)
            elif set(names) - set(lab.names) or target != lab.target:
                raise LabError(
                    f"another lab is up in {directory}: {', '.join(lab.names)}, {lab.target}",
                    "end it with `deploy/lab down`, or name another directory in TRILUN_LAB",
                )
            for host in lab.hosts.values():
                host.start()
        for host in lab.hosts.values():
            host.wait_booted()
        return lab

    @classmethod
    def _make(cls, directory: Path, names: list[str], target: str) -> Lab:
        if directory.exists() and any(directory.iterdir()):
            raise LabError(f"{directory} is there and is no lab", "name another in TRILUN_LAB")
        with unwound():
            directory.mkdir(parents=True, exist_ok=True)
            try:
                return cls._made(directory, names, target)
            except BaseException:
                cls._end(directory)
                raise

    @classmethod
    def _made(cls, directory: Path, names: list[str], target: str) -> Lab:
        (directory / "lab.json").write_text("{}", encoding="utf-8")
        package.install(directory / "trilun")
        install_boot(directory)
        lab = cls(directory, Network.create(directory / HOLDER), names, target)
        for name, host in lab.hosts.items():
            host.layer.build(name, lab.links.addresses)
            roles.furnish(host.layer, name, names, target)
        lab.save()
        return lab

    @classmethod
    def open(cls, directory: Path) -> Lab:
        """The lab that is up; LabError when there is none."""
        lab = cls._find(directory)
        if lab is None:
            raise LabError(f"no lab is up in {directory}", "deploy/lab up")
        return lab

    @classmethod
    def _find(cls, directory: Path) -> Lab | None:
        saved = _read(directory)
        if saved is None:
            return None
        if not saved:
            raise LabError(
                f"the lab in {directory} was begun and is not finished",
                "end it with `deploy/lab down`, unless another command makes it just now",
            )
        holder = Process.noted(directory / HOLDER)
        if holder is None or not holder.alive:
            raise LabError(
                f"the lab in {directory} has lost its network, after a restart of the machine?",
                "deploy/lab down, then deploy/lab up",
            )
        lab = cls(directory, Network(holder), list(saved["hosts"]), str(saved["target"]))
        lab.links.load(saved["links"])
        return lab

    def save(self) -> None:
        """Remember it for the next command."""
        text = json.dumps(
            {
                "hosts": self.names,
                "target": self.target,
                "links": self.links.save(),
            },
            indent=1,
        )
        fresh = self.directory / "lab.json.new"
        fresh.write_text(text, encoding="utf-8")
        fresh.replace(self.directory / "lab.json")

    @classmethod
    def down(cls, directory: Path) -> bool:
        """End it all and remove it; False when there was nothing."""
        with alone(directory):
            if not (directory / "lab.json").exists():
                return False
            cls._end(directory)
            return True

    @classmethod
    def _end(cls, directory: Path) -> None:
        for note in (*directory.glob(f"hosts/*/{NOTE}"), directory / HOLDER):
            process = Process.noted(note)
            if process is not None:
                process.kill()
        shutil.rmtree(directory)

    # ------------------------------------------------------------ hosts and links

    def host(self, name: str) -> Host:
        """A host by its name."""
        if name not in self.hosts:
            raise LabError(f"there is no host '{name}'", f"name one of: {', '.join(self.names)}")
        return self.hosts[name]

    def cut(self, one: str, other: str) -> None:
        """Cut the link of two hosts; or with `all`, of one to every other."""
        for link in self._links(one, other):
            self.links.cuts.add(link)
        self._tell(one, other)

    def mend(self, one: str, other: str) -> None:
        """End cuts and delays."""
        for link in self._links(one, other):
            self.links.mend(link)
        self._tell(one, other)

    def delay(self, one: str, other: str, delay_ms: float) -> None:
        """Let frames take longer, each way."""
        for link in self._links(one, other):
            near, far = link
            self.links.delay(near, far, delay_ms)
        self._tell(one, other)

    def _links(self, one: str, other: str) -> list[frozenset[str]]:
        others = [name for name in self.names if name != one] if other == "all" else [other]
        return [self.links.between(one, name) for name in others]

    def _tell(self, one: str, other: str) -> None:
        """Bring hosts to the new state; those without power find it when they boot."""
        self.save()
        for name in self.names if other == "all" else (one, other):
            host, script = self.hosts[name], self.links.script(name)
            host.layer.write(NETWORK_SCRIPT, script)
            if host.powered:
                host.shell(script)

    # ------------------------------------------------------------ the desk

    def trilun(
        self, *arguments: str, check: bool = True, within_s: float = COMMAND_WITHIN_S
    ) -> dict[str, Any]:
        """Give a command from the machine itself, by MQTT. LabError: it fails, or has no end."""
        command = self.trilun_command("--json", *arguments)
        try:
            result = subprocess.run(
                command, capture_output=True, text=True, check=False, timeout=within_s
            )
        except subprocess.TimeoutExpired as exc:
            raise LabError(
                f"trilun {' '.join(arguments)}: no end after {within_s:.0f} s",
                "see what runs with `deploy/lab trilun job list`",
            ) from exc
        if check and result.returncode != 0:
            said = result.stdout.strip() or result.stderr.strip()
            raise LabError(f"trilun {' '.join(arguments)}: exit {result.returncode}: {said}")
        try:
            answer: dict[str, Any] = json.loads(result.stdout)
        except ValueError:
            return {}
        return answer

    def trilun_command(self, *arguments: str) -> list[str]:
        """How the operator's command is called for this lab."""
        broker = roles.ADDRESSES[roles.BROKER_HOST]
        command = [str(BIN / "trilun"), "--broker", broker, *arguments]
        return [str(shutil.which("nsenter", path=PATH)), *self.network.inside(*command)[1:]]


def _read(directory: Path) -> dict[str, Any] | None:
    try:
        saved: dict[str, Any] = json.loads((directory / "lab.json").read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    return saved
