"""A controller with `[target] kind = "auto"` and its broker on one lab host, under its systemd.

Owns the unit, installed as docs/configuration.md says, but for the place of the programs; and the
operator's command on the host. What it wrote is the host's own, and gone at its next boot.
"""

from __future__ import annotations

import json
import subprocess
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from deploy.labs.host import Host
from deploy.labs.problem import LabError
from tests.lab.lio import ROOT, until

NODE = "ctl1"
UNIT = f"trilund@{NODE}"
DROP_INS = f"/etc/systemd/system/{UNIT}.service.d"
BIN = ROOT / ".venv/bin"
SYSTEMD = ROOT / "systemd"
IQN = f"iqn.2026-11.io.trilun:{NODE}.v"
CREDENTIALS = f"/etc/credstore/trilun.{NODE}"
BROKER_PORT = 1884


@dataclass
class Controller:
    """`password` is the controller's at the broker, `secrets` what its unit is given by name."""

    host: Host
    more: str = ""
    """Tables of the configuration beside the usual ones."""
    password: str = ""
    secrets: dict[str, str] = field(default_factory=dict)

    def install(self) -> None:
        """Everything that is needed, up to the start."""
        unit = (SYSTEMD / "trilund@.service").read_text().replace("/opt/trilun/bin", str(BIN))
        # The tree of a developer may lie in a home directory, or in a temporary one.
        unit = unit.replace("ProtectHome=yes", "ProtectHome=read-only")
        unit = unit.replace("PrivateTmp=yes", f"PrivateTmp=yes\nBindReadOnlyPaths={ROOT}")
        self.put("/etc/systemd/system/trilund@.service", unit)
        self.put(f"{DROP_INS}/lio.conf", (SYSTEMD / "lio/trilund.conf").read_text())
        if "[target.chap]" in self.more:
            self.put(f"{DROP_INS}/chap.conf", (SYSTEMD / "lio/chap.conf").read_text())
        self.configure(self.more)
        modules = (SYSTEMD / "lio/modules-load.conf").read_text().splitlines()
        names = " ".join(line for line in modules if not line.startswith("#"))
        self.put("/run/tmpfiles.conf", (SYSTEMD / "lio/tmpfiles.conf").read_text())
        for name, secret in self.secrets.items():
            self.put(f"{CREDENTIALS}.{name}", f"{secret}\n")
        self.host.shell(
            f"modprobe -a {names} iscsi_tcp sd_mod; systemctl start iscsid\n"
            "systemd-tmpfiles --create /run/tmpfiles.conf\n"
            "id trilun >/dev/null 2>&1 || useradd --system --no-create-home trilun\n"
            # A developer's interpreter may lie in a home directory, too: root's alone is closed.
            "chmod o+x /root; systemctl daemon-reload"
        )
        self._start_broker()

    def configure(self, more: str) -> None:
        """Write its file anew."""
        whom = f'username = "{NODE}"\npassword_file = "credential:mqtt"\n' if self.password else ""
        self.put(
            f"/etc/trilun/{NODE}.toml",
            f'node = "{NODE}"\n[broker]\nhost = "127.0.0.1"\nport = {BROKER_PORT}\n{whom}'
            f'[target]\nkind = "auto"\nlisten = ["127.0.0.1:3260"]\n{more}',
        )

    def _start_broker(self) -> None:
        text = f"listener {BROKER_PORT}\n"
        operator = f'[broker]\nhost = "{self.host.address}"\nport = {BROKER_PORT}\n'
        if self.password:
            self.put(f"{CREDENTIALS}.mqtt", f"{self.password}\n")
            self.host.shell(
                f"mosquitto_passwd -c -b /srv/passwd {NODE} {self.password}\n"
                "chown mosquitto /srv/passwd"
            )
            text += "allow_anonymous false\npassword_file /srv/passwd\n"
            secret = self.host.directory / "password"
            secret.write_text(self.password)
            secret.chmod(0o600)
            operator += f'username = "{NODE}"\npassword_file = "{secret}"\n'
        else:
            text += "allow_anonymous true\n"
        self._operator.write_text(operator)
        self.put("/srv/broker.conf", text)
        self.host.shell("systemd-run -q --unit=broker mosquitto -c /srv/broker.conf")

    def put(self, path: str, text: str) -> None:
        """A file on the host, root's alone where it is a secret."""
        self.host.shell(f"mkdir -p {Path(path).parent}")
        self.host.run("tee", path, stdin=text.encode())
        if path.startswith(CREDENTIALS):
            self.host.run("chmod", "600", path)

    def drop_in(self, name: str, text: str) -> None:
        """A setting of its unit's own; `remove` takes it away."""
        self.put(f"{DROP_INS}/{name}.conf", text)
        self.host.run("systemctl", "daemon-reload")

    def start(self) -> None:
        """Type=notify: returns when volumes are exported."""
        self.host.run("systemctl", "start", UNIT)

    def remove(self) -> None:
        """Stop it, and forget what was its own; its volumes stay."""
        self.host.run("systemctl", "stop", UNIT, "broker", check=False)
        self.host.shell(f"rm -rf {DROP_INS} {CREDENTIALS}.*; systemctl daemon-reload")

    def show(self, name: str) -> str:
        """A property of its unit."""
        return self.host.run("systemctl", "show", "-P", name, UNIT).text

    def restarts(self) -> int:
        """How often systemd has started it again by itself."""
        return int(self.show("NRestarts"))

    def wait_restarted(self, before: int) -> None:
        """Until systemd has started it again, and it is up."""
        until(lambda: self.restarts() > before and self.show("SubState") == "running", "a restart")

    def trilun(self, *arguments: str, check: bool = True) -> dict[str, Any]:
        """The operator's command from the machine itself; its answer."""
        ran = self.operate("--json", *arguments)
        if check and ran.returncode != 0:
            raise LabError(f"trilun {' '.join(arguments)}: {ran.stdout}{ran.stderr}")
        answer: dict[str, Any] = json.loads(ran.stdout) if ran.stdout else {}
        return answer

    def operate(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """The operator's command as it is."""
        command = [str(BIN / "trilun"), "--config", str(self._operator), *arguments]
        inside = self.host.network.inside(*command)
        return subprocess.run(inside, capture_output=True, text=True, check=False, timeout=120)

    @property
    def _operator(self) -> Path:
        return self.host.directory / "cli.toml"

    def log(self) -> str:
        """All that it has said on this host since its boot."""
        return self.host.run("journalctl", "-o", "cat", "-u", UNIT).text
