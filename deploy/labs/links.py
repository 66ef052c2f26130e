"""Cuts and delays between hosts: what is broken, and the script that makes a host feel it.

Pure: owns the set of broken links and turns it into text. Frames of a cut peer are dropped where
they arrive, at both ends, by the hosts' own kernels: senders notice nothing, as with a broken wire.
A delay is put on what a host sends. The machine's kernel needs no traffic control for either.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from deploy.labs.network import mac
from deploy.labs.problem import LabError

MAX_DELAY_MS = 10_000
DEVICE = "vec0"
QUEUE_FRAMES = 20_000
MODULES = "sch_ingress cls_flower act_gact sch_prio sch_netem"


@dataclass
class Links:
    """What is wrong with the wires between hosts, by their addresses."""

    addresses: dict[str, str]
    cuts: set[frozenset[str]] = field(default_factory=set)
    delays_ms: dict[frozenset[str], float] = field(default_factory=dict)

    def between(self, one: str, other: str) -> frozenset[str]:
        """The link of two hosts; LabError when there is none."""
        for name in (one, other):
            if name not in self.addresses:
                known = ", ".join(self.addresses)
                raise LabError(f"there is no host '{name}'", f"name one of: {known}")
        if one == other:
            raise LabError(f"'{one}' has no link to itself")
        return frozenset((one, other))

    def delay(self, one: str, other: str, delay_ms: float) -> None:
        """Let frames take that long each way; 0 ends it."""
        link = self.between(one, other)
        if not 0 <= delay_ms <= MAX_DELAY_MS:
            raise LabError(f"a delay is 0 to {MAX_DELAY_MS} ms, each way")
        if delay_ms:
            self.delays_ms[link] = delay_ms
        else:
            self.delays_ms.pop(link, None)

    def mend(self, link: frozenset[str]) -> None:
        """Nothing is wrong with this link."""
        self.cuts.discard(link)
        self.delays_ms.pop(link, None)

    def broken(self) -> list[str]:
        """What is wrong, a line each."""
        lines = [f"{' - '.join(sorted(link))}: cut" for link in self.cuts]
        lines += [
            f"{' - '.join(sorted(link))}: {delay:g} ms each way"
            for link, delay in self.delays_ms.items()
        ]
        return sorted(lines)

    def script(self, host: str) -> str:
        """What `host` has to run to be in this state, whatever state it was in.

        Cuts are changed one by one, so that none is open for a moment while another is mended.
        """
        peers = {name: address for name, address in self.addresses.items() if name != host}
        lines = [
            "set -eu",
            f"modprobe -a {MODULES}",
            f"tc qdisc add dev {DEVICE} clsact 2>/dev/null || true",
        ]
        bands: list[tuple[str, float]] = []
        for name, address in peers.items():
            link = frozenset((host, name))
            place = f"dev {DEVICE} ingress pref {int(address.rpartition('.')[2])}"
            if link in self.cuts:
                rule = f"protocol all handle 1 flower src_mac {mac(address)} action drop"
                lines.append(f"tc filter replace {place} {rule}")
            else:
                lines.append(f"tc filter del {place} 2>/dev/null || true")
            if link in self.delays_ms:
                bands.append((address, self.delays_ms[link]))
        lines.append(f"tc qdisc del dev {DEVICE} root 2>/dev/null || true")
        if bands:
            zeros = " ".join(["0"] * 16)
            lines.append(
                f"tc qdisc add dev {DEVICE} root handle 1: prio "
                f"bands {max(3, 1 + len(bands))} priomap {zeros}"
            )
        for number, (address, delay_ms) in enumerate(bands, start=2):
            lines.append(
                f"tc qdisc add dev {DEVICE} parent 1:{number} netem "
                f"delay {delay_ms:g}ms limit {QUEUE_FRAMES}"
            )
            lines.append(
                f"tc filter add dev {DEVICE} parent 1: protocol all pref {number} "
                f"flower dst_mac {mac(address)} classid 1:{number}"
            )
        return "\n".join(lines) + "\n"

    # ------------------------------------------------------------ memory

    def save(self) -> dict[str, Any]:
        """For the lab's file."""
        return {
            "cuts": sorted(sorted(link) for link in self.cuts),
            "delays_ms": sorted([*sorted(link), delay] for link, delay in self.delays_ms.items()),
        }

    def load(self, saved: dict[str, Any]) -> None:
        """From the lab's file."""
        self.cuts = {frozenset(link) for link in saved["cuts"]}
        self.delays_ms = {frozenset(entry[:2]): entry[2] for entry in saved["delays_ms"]}
