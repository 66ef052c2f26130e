"""A shop on host 1: PostgreSQL on one volume, a journal of orders on another, a group of both.

Owns the data sets `shop` and `orders`, their part in the agents' configuration, and the server, a
cluster of Debian's own kind with its systemd unit. All of it is gone at the end. An order is
written to the journal and flushed, then committed to the database: at any instant the journal has
all that the database has, and one order more at most. Fails with LabError.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from deploy.labs import data_sets, roles
from deploy.labs.lab import Lab
from deploy.labs.roles import DataSet, unit_of
from deploy.pair import BIN, REPOSITORY
from tests.integration.recovery.ledger import ClientLoad
from tests.lab import settling

SHOP = DataSet("ext4", "shop", slots=2, size_bytes=160 << 20)
ORDERS = DataSet("xfs", "orders", size_bytes=320 << 20)
"""XFS takes no less than 300 MiB."""
GROUP = "business"
PORT = 5499
JOURNAL = f"{ORDERS.mountpoint}/journal"
WRITTEN_WITHIN_S = 120.0

CREATE = """
pg_createcluster "$0" shop --datadir "$1" --port "$2" --locale C.UTF-8 \
    -o listen_addresses= -o shared_buffers=16MB -o max_wal_size=32MB \
    -o recovery_init_sync_method=syncfs -- --no-sync --wal-segsize=1
cd "/etc/postgresql/$0/shop"
sed -i -E 's/^(local +all +postgres +peer)$/\\1 map=trilun/' pg_hba.conf
echo 'trilun root postgres' >>pg_ident.conf
"""
"""How the agent, which is root, gets in: as docs/configuration.md says."""


def release() -> str:
    """The newest one of PostgreSQL: hosts see this machine's programs."""
    if shutil.which("pg_createcluster") is None:
        pytest.skip("needs 'pg_createcluster' of the package postgresql")
    found = [path.parts[-3] for path in Path("/usr/lib/postgresql").glob("*/bin/initdb")]
    if not found:
        pytest.skip("needs 'initdb' of the package postgresql")
    return max(found, key=float)


class Shop:
    """Its server is a unit on host 1, which the agent stops and starts."""

    def __init__(self, lab: Lab) -> None:
        self.lab, self.host1 = lab, lab.host("host1")
        self._release = release()
        self.cluster = f"{self._release}/shop"
        self.unit = f"postgresql@{self._release}-shop.service"
        self.data = f"{SHOP.mountpoint}/{self.cluster}"

    def section(self) -> str:
        """The database in the configuration of host 1's agent. Its path names the unit."""
        return (
            f'[[data_set.database]]\nkind = "postgresql"\npath = "{self.cluster}"\n'
            f'connect = "host=/run/postgresql port={PORT} user=postgres"\n'
        )

    def create(self) -> None:
        """The cluster on the mounted volume, running, with a table."""
        arguments = (self._release, self.data, str(PORT))
        self.host1.run("sh", "-euc", CREATE, *arguments, timeout_s=180)
        self.host1.run("systemctl", "start", self.unit, timeout_s=120)
        self.sql("CREATE TABLE kept (n int PRIMARY KEY, filling text)")

    def client(self) -> list[str]:
        """psql itself: Debian's is a script around it."""
        psql = [f"/usr/lib/postgresql/{self._release}/bin/psql", "-XqAt", "-v", "ON_ERROR_STOP=1"]
        return [*psql, "-h", "/run/postgresql", "-p", str(PORT), "-U", "postgres", "postgres"]

    def sql(self, statement: str) -> str:
        """What psql says to a statement."""
        return self.host1.run(*self.client(), "-c", statement, timeout_s=120).text

    def sell(self) -> ClientLoad:
        """Orders from now on, from number 1, until the load is stopped."""
        self.sql("TRUNCATE kept")
        self.host1.shell(f"echo -n >{JOURNAL}")
        here = ["env", "-C", str(REPOSITORY), f"TRILUN_LAB={self.lab.directory}"]
        there = [str(BIN / "python"), "-m", "deploy.labs", "run", "host1"]
        return ClientLoad(
            [*here, *there, *self.client()],
            lambda n: (
                f"\\! echo {n} >>{JOURNAL} && sync -d {JOURNAL}\n"
                f"INSERT INTO kept VALUES ({n}, repeat('x', 200));\n"
                f"\\echo {n}"
            ),
        )

    def committed(self) -> list[int]:
        """The orders in the database."""
        return [int(line) for line in self.sql("SELECT n FROM kept ORDER BY n").split()]

    def written(self) -> list[int]:
        """The orders in the journal."""
        return [int(line) for line in self.host1.run("cat", JOURNAL).text.split()]

    def has_table(self, name: str) -> bool:
        """Whether the database has it."""
        return self.sql(f"SELECT to_regclass('{name}') IS NOT NULL") == "t"


def configure(lab: Lab, more: dict[str, str]) -> None:
    """Give the agents their usual configuration and `more`, by host. They have let go of
    everything, and host 1's does not run."""
    for name in roles.HOSTS:
        lab.host(name).run("systemctl", "stop", unit_of(name), timeout_s=120)
        text = roles.agent_config(name) + more.get(name, "")
        lab.host(name).run("tee", f"/etc/trilun/{name}.toml", stdin=text.encode())
    lab.host("host2").run("systemctl", "start", unit_of("host2"), timeout_s=120)


def remove(lab: Lab, data: DataSet) -> None:
    """Pairs first, then volumes; no agent knows them any more."""
    for pair in (*(local for _, local in data.backups), data.remote):
        lab.trilun("pair", "delete", pair)
    thirds = [f"secondary/{third}" for third, _ in data.backups]
    for volume in (*thirds, f"secondary/{data.second}", f"primary/{data.first}"):
        lab.trilun("volume", "delete", volume)


@contextmanager
def open_shop(lab: Lab) -> Iterator[Shop]:
    """The shop while it is there."""
    shop = Shop(lab)
    others = [data for data in map(DataSet, roles.FILESYSTEMS) if data_sets.is_mounted(lab, data)]
    sections = {
        name: roles.data_set_config(ORDERS, name) + roles.data_set_config(SHOP, name)
        for name in roles.HOSTS
    }
    sections["host1"] += shop.section()
    try:
        configure(lab, sections)
        data_sets.make(lab, SHOP, ORDERS)
        settling.wait_online(lab, *roles.HOSTS)
        lab.trilun("group", "create", GROUP, SHOP.remote, ORDERS.remote)
        shop.create()
        yield shop
    finally:
        shop.host1.run("systemctl", "stop", shop.unit, timeout_s=120)
        configure(lab, {})
        shop.host1.run("systemctl", "start", unit_of("host1"), timeout_s=120)
        for data in others:
            data_sets.wait_mounted(lab, data)
    lab.trilun("group", "delete", GROUP)
    for data in (SHOP, ORDERS):
        remove(lab, data)
    shop.host1.shell(f"pg_dropcluster {shop.cluster.replace('/', ' ')}", timeout_s=120)
