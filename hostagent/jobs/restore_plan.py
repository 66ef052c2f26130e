"""What a restore would do, in numbers and sentences.

Pure. Owns the wording of the rule and of what the starting point means, and the estimate of
time. Must not find anything out: steps hand in what they found.
"""

from __future__ import annotations

from controller.api import messages as m
from hostagent.copying.beneath import shown
from hostagent.copying.walk import MAX_LISTED, MAX_LISTED_BYTES, Found
from hostagent.jobs.brief import fitting
from hostagent.jobs.context import JobContext
from hostagent.jobs.discarding import for_plan
from hostagent.jobs.restore_files import place_of, policy_of, restored
from hostagent.jobs.survey import source_of

ASSUMED_BYTES_PER_S = 30 << 20
"""For the plan's estimate only: what a pass over the files' data is taken to reach."""
PASSES = 3
"""Copy, verify, resync."""
ASSUMED_OVERHEAD_S = 5.0

RULES = {
    "in_sync": "the remote pair is in PAIR: the second volume holds what the first does, so it is "
    "split, gets the files, and the first is re-synchronised from it by the bitmaps",
    "split": "the remote pair is split: the second volume gets the files, and the first is "
    "re-synchronised from it; what was written on the first since the split is lost",
}


def meaning_of(start: str, overwritten_bytes: int) -> str:
    """What the starting point means for writes made since, in a sentence."""
    if start == "in_sync":
        return (
            "in sync: everything written on the first volume since the backup stays, "
            "outside of the files that come back"
        )
    if not overwritten_bytes:
        return (
            "already split: nothing was written on the first volume since the split; "
            "it becomes what the second volume is, with the files"
        )
    return (
        "already split: the first volume becomes what the second is, with the files; "
        f"{overwritten_bytes} bytes in blocks written on the first since the split are overwritten"
    )


def plan_of(context: JobContext, found: Found, steps: list[str]) -> m.RestorePlan:
    """The plan, before conflicts are known."""
    facts = context.record.facts
    union_bytes = int(facts["union"])
    data_bytes = found.file_bytes * PASSES + union_bytes
    place = place_of(context)
    source = source_of(context)
    return m.RestorePlan(
        data_set=context.data_set.name,
        backup_pair=source.pair,
        backup_label=source.label,
        backup_at=source.taken_at,
        files=[restored(file) for file in found.named],
        file_count=found.files,
        missing=fitting(found.missing[:MAX_LISTED], str, MAX_LISTED_BYTES),
        to=shown(place) if place else "",
        bytes_to_copy=found.file_bytes,
        direction=m.Direction.REVERSE,
        rule=RULES[facts["start"]],
        starting_point=facts["start"],
        meaning=meaning_of(facts["start"], facts["overwritten"]),
        overwritten_bytes=facts["overwritten"],
        **for_plan(context),
        union_bytes=union_bytes,
        # Each file's last block is marked as a whole.
        expected_union_bytes=union_bytes + found.file_bytes + found.files * m.BLOCK_BYTES,
        conflict=policy_of(context),
        eta_s=ASSUMED_OVERHEAD_S + data_bytes / ASSUMED_BYTES_PER_S,
        steps=steps,
    )
