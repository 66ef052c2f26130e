"""What operators see: the API's view of volumes and pairs, made from the live objects.

Owns the translation only; changes nothing.
"""

from __future__ import annotations

from controller.api import messages as m
from controller.exports import Exporter
from controller.pair.owner import PairOwner
from controller.pair.standing import split_brain
from controller.shelved import Shelved


def volume_info(
    node: str, shelved: Shelved, owners: list[PairOwner], exporter: Exporter
) -> m.VolumeInfo:
    """One volume or view."""
    volume, record = shelved.volume, shelved.record
    return m.VolumeInfo(
        name=record.name,
        node=node,
        size_bytes=record.size_bytes,
        allocated_bytes=volume.store.allocated_bytes(),
        access=m.AccessInfo(volume.access.value),
        consistent=record.consistent,
        healthy=record.healthy,
        generation=record.generation,
        pairs=sorted({owner.record.name for owner in owners}),
        view_of=shelved.view_of,
        target=shelved.iqn,
        trouble=exporter.trouble(shelved.iqn),
        portals=exporter.portals,
        naa=volume.identity.naa.hex(),
        initiators=record.initiators,
        sessions=exporter.sessions(shelved.iqn),
    )


def pair_info(node: str, owner: PairOwner) -> m.PairInfo:
    """One side of a pair; a local pair is shown by its P-VOL's side."""
    side, record = owner.side, owner.record
    is_p = record.role is m.Role.P_VOL
    return m.PairInfo(
        name=record.name,
        node=node,
        kind=record.kind,
        role=record.role,
        state=record.state,
        p_volume=record.volume if is_p else record.other_volume,
        s_volume=record.other_volume if is_p else record.volume,
        peer=record.peer,
        peer_connected=side.channel is not None and side.channel.alive,
        mode=record.mode,
        fence=record.fence,
        rate_limit_bytes_per_s=record.rate_limit_bytes_per_s,
        reason=record.reason,
        next_step=record.next_step,
        dirty_bytes=side.bitmap.dirty_bytes,
        generation=record.current,
        goal=record.goal,
        copies_back=record.copies_back,
        split_label=record.label,
        split_at=record.split_at,
        backup_number=record.backup_number,
        guarded=record.guarded,
        instant=record.instant,
        behind=side.behind is not None,
        progress=_progress(owner),
        resync_payload_bytes=(
            side.copier.payload_bytes if side.copier is not None else side.payload_bytes
        ),
        resync_wire_bytes=side.wire_bytes if record.kind is m.PairKind.REMOTE else 0,
        resync_union_bytes=side.union_bytes,
        resync_discarded_bytes=side.discarded_bytes,
        resync_compared_bytes=(
            side.copier.compared_bytes if side.copier is not None else side.compared_bytes
        ),
        split_brain=split_brain(side, owner.report),
        verify=None if side.verifier is None else side.verifier.info(),
    )


def _progress(owner: PairOwner) -> m.Progress | None:
    side = owner.side
    if side.copier is not None:
        return side.copier.progress()
    if side.behind is not None:
        return side.behind.progress()
    if owner.record.copying is None or not side.sinking:
        return None
    return m.Progress(
        done_bytes=max(0, side.union_bytes - side.sink_left_bytes),
        left_bytes=side.sink_left_bytes,
        rate_bytes_per_s=side.meter.rate_bytes_per_s,
        eta_s=side.meter.eta_s(side.sink_left_bytes),
    )
