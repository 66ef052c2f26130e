"""`trilun pair takeover` and `trilun pair swap`: who serves the hosts.

Owns the arguments. Must not know the state table: the controller answers accepted, no-op or
rejected.
"""

from __future__ import annotations

import click

from controller.api import messages as m
from controller.cli.locate import find_pair, find_s_side, pair_sides
from controller.cli.names import Ref
from controller.cli.pairs import PAIR_ARGUMENT
from controller.cli.results import report_change
from controller.cli.session import Session
from controller.service.client import ApiClient


@click.command("takeover")
@PAIR_ARGUMENT
@click.pass_obj
def takeover(session: Session, ref: Ref) -> None:
    """Let hosts write to the S-VOL, because the P-VOL is lost.

    The S-VOL's controller does it alone. What was written on the P-VOL and had not arrived is not
    there. `trilun pair show` names the ways back.
    """
    params = m.PairTakeover(name=ref.name)

    async def work(client: ApiClient) -> m.Reply:
        side = await find_s_side(client, ref)
        return await client.request(side.node, "pair.takeover", params, session.timeout_s)

    done = f"the S-VOL of pair '{ref.name}' has taken over"
    report_change(session, session.run(work), m.PairInfo, done)


@click.command("swap")
@PAIR_ARGUMENT
@click.option("--to", required=True, metavar="NODE", help="Whose volume becomes the P-VOL.")
@click.option("--force", is_flag=True, help="Although a host is logged in to the P-VOL, or the "
              "other side may have taken the role.")  # fmt: skip
@click.pass_obj
def swap(session: Session, ref: Ref, to: str, force: bool) -> None:
    """Exchange the roles: the S-VOL becomes the P-VOL, and the mirror runs the other way.

    A repeated command is a no-op.

    In PAIR nothing is copied; log the P-VOL's hosts out before, and in on the other side after.
    Where the link went in the middle of a swap, no host may write to the old P-VOL until it is
    back. With --to its own NODE and --force it goes on alone, because the other side is lost.

    Behind a takeover the old P-VOL follows when it is back: `trilun pair resync` then copies to it
    what differs.
    """
    params = m.PairSwap(name=ref.name, to=to, force=force)

    async def work(client: ApiClient) -> m.Reply:
        sides = await pair_sides(client, ref)
        # One that is to keep the role it has decides alone. So does, behind a takeover, that
        # side, though the P-VOL's node may be there.
        leads = [side for side in sides if side.role is m.Role.P_VOL and side.node == to]
        taken = [side for side in sides if side.state is m.PairState.SSWS]
        side = (leads or taken or [await find_pair(client, ref)])[0]
        return await client.request(side.node, "pair.swap", params, session.timeout_s)

    done = f"the roles of pair '{ref.name}' are exchanged"
    report_change(session, session.run(work), m.PairInfo, done)
