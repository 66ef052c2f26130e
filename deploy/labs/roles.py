"""What each host of the lab is: its address, its units and their configuration.

Pure but for the layer it writes to: the steps are those of an installation by hand (user, units,
`/etc/trilun`), done to a host's files before it boots.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from deploy.labs.layer import Layer
from deploy.pair import REPOSITORY

CONTROLLERS = {"primary": "10.77.0.11", "secondary": "10.77.0.12", "third": "10.77.0.13"}
HOSTS = {"host1": "10.77.0.21", "host2": "10.77.0.22"}
ADDRESSES = {**CONTROLLERS, **HOSTS}
USUAL = ("primary", "secondary", "host1", "host2")
BROKER_HOST = "host1"
"""No test pulls this host's plug alone: commands have to arrive."""
SYSTEMD = REPOSITORY / "systemd"
UNITS = sorted(file for file in SYSTEMD.iterdir() if file.is_file())
FOR_THE_KERNELS_TARGET = {
    "modules-load.conf": "etc/modules-load.d/trilun.conf",
    "tmpfiles.conf": "etc/tmpfiles.d/trilun.conf",
    "trilund.conf": "etc/systemd/system/trilund@{name}.service.d/lio.conf",
}
"""Files of `systemd/lio`, and where a controller has them."""
SYSTEM_UID_RANGE = range(999, 99, -1)

BROKER_CONFIG = """\
listener 1883
allow_anonymous true
set_tcp_nodelay true
"""


FILESYSTEMS = ("ext4", "xfs")


@dataclass(frozen=True)
class DataSet:
    """Volumes, pairs and a file system; named after its kind unless it has a name of its own."""

    filesystem: str
    own_name: str = ""
    slots: int = 1
    """How many backups it can hold."""
    size_bytes: int = 1 << 30

    @property
    def name(self) -> str:
        """Its name in commands."""
        return self.own_name or self.filesystem

    @property
    def first(self) -> str:
        """The volume at the primary."""
        return f"{self.name}-first"

    @property
    def second(self) -> str:
        """Its mirror at the secondary."""
        return f"{self.name}-second"

    @property
    def third(self) -> str:
        """The mirror's mirror."""
        return f"{self.name}-third"

    @property
    def remote(self) -> str:
        """The pair of first and second."""
        return f"{self.name}-remote"

    @property
    def local(self) -> str:
        """The pair of second and third."""
        return f"{self.name}-local"

    @property
    def backups(self) -> list[tuple[str, str]]:
        """Of each slot the volume and the pair; the first are `third` and `local`."""
        more = range(2, self.slots + 1)
        return [
            (self.third, self.local),
            *((f"{self.third}-{number}", f"{self.local}-{number}") for number in more),
        ]

    @property
    def mountpoint(self) -> str:
        """Where host 1 has it."""
        return f"/srv/{self.name}"


def unit_of(host: str) -> str:
    """The unit that is trilun on this host."""
    return f"trilund@{host}.service" if host in CONTROLLERS else f"trilun-agent@{host}.service"


def furnish(layer: Layer, name: str, hosts: list[str], target: str) -> None:
    """Install trilun on a host's layer: the base must be there already."""
    for unit in UNITS:
        layer.write(f"etc/systemd/system/{unit.name}", unit.read_text(encoding="utf-8"))
    layer.write("srv/.lab", "")
    if name in CONTROLLERS:
        add_user(layer, "trilun")
        peers = [peer for peer in hosts if peer in CONTROLLERS and peer != name]
        layer.write(f"etc/trilun/{name}.toml", controller_config(name, peers, target))
        layer.enable(unit_of(name))
        if target != "embedded":
            for file, place in FOR_THE_KERNELS_TARGET.items():
                text = (SYSTEMD / "lio" / file).read_text(encoding="utf-8")
                layer.write(place.format(name=name), text)
    else:
        layer.write(f"etc/trilun/{name}.toml", agent_config(name))
        layer.write("etc/modules-load.d/trilun.conf", "iscsi_tcp\n")
        layer.write("etc/iscsi/initiatorname.iscsi", f"InitiatorName=iqn.2026-11.io.lab:{name}\n")
        layer.want("iscsid.socket", of="sockets.target")
        layer.enable(unit_of(name))
    if name == BROKER_HOST:
        layer.write("etc/mosquitto/conf.d/lab.conf", BROKER_CONFIG)
        layer.want("mosquitto.service", of="multi-user.target")


def controller_config(name: str, peers: list[str], target: str) -> str:
    """`/etc/trilun/NAME.toml` of a controller."""
    address = CONTROLLERS[name]
    text = (
        f'node = "{name}"\n'
        f'[broker]\nhost = "{ADDRESSES[BROKER_HOST]}"\n'
        f'[target]\nkind = "{target}"\nlisten = ["{address}:3260"]\n'
        f'[link]\nlisten = "{address}:7400"\n'
    )
    for peer in peers:
        text += f'[[peer]]\nname = "{peer}"\naddress = "{CONTROLLERS[peer]}:7400"\n'
    return text


def agent_config(name: str) -> str:
    """`/etc/trilun/NAME.toml` of a host agent."""
    text = (
        f'node = "{name}"\n'
        f'[broker]\nhost = "{ADDRESSES[BROKER_HOST]}"\n'
        '[attach]\nkind = "open-iscsi"\n'
    )
    return text + "".join(data_set_config(data, name) for data in map(DataSet, FILESYSTEMS))


def data_set_config(data: DataSet, part: str) -> str:
    """A data set's section in the file of an agent, `part` being its role. Tables may follow."""
    text = (
        f'[[data_set]]\nname = "{data.name}"\npart = "{part}"\n'
        f'filesystem = "{data.filesystem}"\n'
        f'primary = "primary"\nfirst = "{data.first}"\nremote_pair = "{data.remote}"\n'
        f'secondary = "secondary"\nsecond = "{data.second}"\n'
        f'host1 = "host1"\nhost2 = "host2"\nmountpoint = "{data.mountpoint}"\n'
    )
    for volume, pair in data.backups:
        text += f'[[data_set.backup]]\nvolume = "{volume}"\npair = "{pair}"\n'
    return text


def add_user(layer: Layer, name: str) -> None:
    """What `useradd --system` does."""
    files = {file: Path(f"/etc/{file}").read_text("utf-8") for file in ("passwd", "group")}
    lines = [line.split(":") for text in files.values() for line in text.splitlines()]
    if any(line[0] == name for line in lines):
        return
    taken = {int(line[2]) for line in lines if len(line) > 2 and line[2].isdigit()}
    number = next(uid for uid in SYSTEM_UID_RANGE if uid not in taken)
    user = f"{name}:x:{number}:{number}::/var/lib/{name}:/usr/sbin/nologin\n"
    layer.write("etc/passwd", files["passwd"] + user)
    layer.write("etc/group", files["group"] + f"{name}:x:{number}:\n")
