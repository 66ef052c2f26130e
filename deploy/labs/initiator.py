"""A volume on a lab host by the kernel's initiator, beside what trilun's agent attaches there.

Owns the node records it makes, by target and portal, with the default interface; the agent uses one
of its own. Fails with LabError that quotes iscsiadm.
"""

from __future__ import annotations

from deploy.labs.host import Host
from deploy.labs.lab import Lab

_ATTACH = """
target=$0 portal=$1 lun=$2
node() { iscsiadm -m node -T "$target" -p "$portal" -I default "$@" >&2; }
disk() {
    for session in /sys/class/iscsi_session/*; do
        [ "$(cat "$session/targetname" 2>/dev/null)" != "$target" ] ||
            ls "$session"/device/target*/*:*:*:"$lun"/block 2>/dev/null || true
    done
}
if [ -z "$(disk)" ]; then
    node -o new
    node -o update -n node.startup -v manual
    node --login
fi
i=0
while [ -z "$(disk)" ]; do
    i=$((i + 1))
    [ $i -lt 300 ] || { echo "no disk appeared" >&2; exit 1; }
    sleep 0.1
done
echo "/dev/$(disk)"
"""

_DETACH = """
iscsiadm -m node -T "$0" -p "$1" -I default --logout >&2
iscsiadm -m node -T "$0" -p "$1" -I default -o delete >&2
"""


def attach(lab: Lab, host: Host, volume: str) -> str:
    """Log in, and return the disk's path, such as `/dev/sda`. Nothing else may have the target."""
    info = lab.trilun("volume", "show", volume)
    where = (str(info["target"]), str(info["portals"][0]), str(info["lun"]))
    return host.run("sh", "-euc", _ATTACH, *where, timeout_s=90).text


def detach(lab: Lab, host: Host, volume: str) -> None:
    """Log out."""
    info = lab.trilun("volume", "show", volume)
    where = (str(info["target"]), str(info["portals"][0]))
    host.run("sh", "-euc", _DETACH, *where, timeout_s=60)
