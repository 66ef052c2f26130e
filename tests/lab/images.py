"""What lies in the volumes' files on the controllers, beneath everything."""

from __future__ import annotations

from deploy.labs.lab import Lab
from deploy.labs.roles import DataSet

CHECKERS = {"ext4": "e2fsck -f -n", "xfs": "xfs_repair -n -f"}


def image(lab: Lab, volume: str) -> tuple[str, str]:
    """The controller that has a volume `NODE/NAME`, and the path of its data there."""
    node = volume.partition("/")[0]
    naa = str(lab.trilun("volume", "show", volume)["naa"])
    pattern = f"/var/lib/trilun/{node}/volumes/*{naa[2:]}.volume"
    path = lab.host(node).shell(f"ls {pattern}").text
    assert path, naa
    return node, path


def digest(lab: Lab, volume: str) -> str:
    """SHA-256 of a whole volume."""
    node, path = image(lab, volume)
    return lab.host(node).run("sha256sum", path, timeout_s=180).text.split()[0]


def assert_equal(lab: Lab, *volumes: str) -> None:
    """Bit for bit."""
    sums = {volume: digest(lab, volume) for volume in volumes}
    assert len(set(sums.values())) == 1, sums


def check_file_system(lab: Lab, volume: str, filesystem: str) -> None:
    """Nothing to mend on a volume that is not mounted."""
    node, path = image(lab, volume)
    command = [*CHECKERS[filesystem].split(), path]
    ran = lab.host(node).run(*command, check=False, timeout_s=180)
    assert ran.code == 0, ran.stdout.decode() + ran.stderr.decode()


def volumes_of(data: DataSet) -> tuple[str, str]:
    """First and second."""
    return f"primary/{data.first}", f"secondary/{data.second}"
