"""`perdure dev`: everything on one machine, in one terminal."""

from __future__ import annotations

import asyncio
from typing import Annotated

import typer

from perdure.commands.options import Options, takes_options
from perdure.errors import InvalidInput

Modules = Annotated[
    list[str] | None,
    typer.Argument(
        help="Importable modules to serve with their workflows, activities and connectors, besides those of perdure.toml.",
        metavar="MODULES",
        show_default=False,
    ),
]


@takes_options
def dev(
    options: Options,
    modules: Modules = None,
    *,
    port: Annotated[int, typer.Option(help="The Temporal server's port; 0 takes a free one.", metavar="PORT")] = 7233,
    ui_port: Annotated[
        int, typer.Option(help="The Web UI's port; 0 takes PORT + 1000, or a free one.", metavar="PORT", show_default=False)
    ] = 0,
    headless: Annotated[bool, typer.Option("--headless", help="Leave the Temporal Web UI out.")] = False,
    no_worker: Annotated[bool, typer.Option("--no-worker", help="Start the server only.")] = False,
) -> None:
    """Start a Temporal server and a worker on this machine.

    Ctrl-C stops both. State is kept in ./.perdure, so runs go on where they were when you start it again. The worker is
    started again when it dies, a kill -9 included.
    """
    if options.address or options.namespace or options.profile:
        raise InvalidInput("`perdure dev` starts a server of its own: use --port, not --address and the like")
    from perdure.commands.dev.work import Wanted, run

    asyncio.run(
        run(options, Wanted(modules=modules or [], port=port, ui_port=ui_port, headless=headless, worker=not no_worker))
    )
