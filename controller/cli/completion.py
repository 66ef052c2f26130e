"""`trilun completion SHELL`: the script that teaches a shell our words.

Owns nothing but the printing; click makes the script.
"""

from __future__ import annotations

import click
from click.shell_completion import get_completion_class

PROGRAM = "trilun"
COMPLETE_VARIABLE = "_TRILUN_COMPLETE"


@click.command("completion")
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
@click.pass_context
def completion(ctx: click.Context, shell: str) -> None:
    """Print a completion script; for bash: eval "$(trilun completion bash)"."""
    maker = get_completion_class(shell)
    assert maker is not None, "click knows these shells"
    root = ctx.find_root()
    click.echo(maker(root.command, {}, PROGRAM, COMPLETE_VARIABLE).source())
