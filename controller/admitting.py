"""Which initiators may log in to a volume: the list, and how it changes under its hosts.

Owns the order: what is in the way, the catalogue, then the front end. A crash in between is made
good by the next start, which offers what the catalogue says. Must not know pairs. Fails with
RejectedError.
"""

from __future__ import annotations

from collections.abc import Iterable

from controller.api import messages as m
from controller.api.codes import Code
from controller.api.errors import RejectedError
from controller.catalogue import Catalogue, VolumeRecord
from controller.exports import Exporter
from controller.shelved import Shelved
from controller.volume.store import StoreError
from targets.naming import initiator_name


def initiator_names(asked: Iterable[str]) -> list[str]:
    """A list as it is kept: checked, in lower case, sorted, none twice."""
    try:
        return sorted({initiator_name(each) for each in asked})
    except ValueError as error:
        raise RejectedError(
            Code.BAD_REQUEST,
            str(error),
            "write it as the host has it: iqn.YYYY-MM.DOMAIN[:NAME], eui.… or naa.…",
        ) from error


def check_same(record: VolumeRecord, asked: m.VolumeCreate) -> None:
    """RejectedError where a volume that is there was asked for with another list."""
    if asked.initiators and initiator_names(asked.initiators) != record.initiators:
        raise RejectedError(
            Code.EXISTS,
            f"'{record.name}' exists with another list of initiators",
            f"change it: trilun volume allow {record.name} INITIATOR...",
        )


async def allow(
    shelved: Shelved, catalogue: Catalogue, exporter: Exporter, asked: m.VolumeAllow
) -> bool:
    """Let these initiators log in, and no others; False when it is so already."""
    if shelved.view_of is not None:
        raise RejectedError(
            Code.BAD_REQUEST,
            f"'{asked.name}' is a view, and has the list that its volume had",
            f"set that of '{shelved.view_of}', and open the view again",
        )
    record, names = shelved.record, initiator_names(asked.initiators)
    if names == record.initiators:
        return False
    shelved.check_not_busy()
    ending = exporter.cut_off_by(shelved.iqn, names)
    if ending and not asked.force:
        raise RejectedError(
            Code.IN_USE,
            f"{ending[0].initiator} is logged in to '{record.name}', and its session would end",
            "log it out on that host first, or end its session: --force",
        )
    before, record.initiators = record.initiators, names
    if len(names) > len(before) and not catalogue.has_room():
        record.initiators = before
        raise RejectedError(
            Code.NO_SPACE, "the catalogue is full", "shorten other lists, or delete volumes"
        )
    try:
        await catalogue.commit()
    except StoreError:
        record.initiators = before
        raise
    await exporter.allow(shelved.iqn, names)
    return True
