"""`perdure worker`: the process that does the work."""

from __future__ import annotations

import os
from typing import Annotated

import typer

from perdure.commands.options import Options, takes_options


@takes_options
def worker(
    options: Options,
    modules: Annotated[
        list[str] | None,
        typer.Argument(
            help="Importable modules whose workflows, activities and connectors to serve, besides those of perdure.toml.",
            metavar="MODULES",
            show_default=False,
        ),
    ] = None,
    task_queue: Annotated[
        str | None,
        typer.Option(
            "--task-queue", "-q", help="The task queue to poll. Default: PERDURE_TASK_QUEUE, else perdure.", metavar="NAME"
        ),
    ] = None,
) -> None:
    """Serve workflows, activities and connectors of modules.

    SIGTERM or Ctrl-C stops it; running steps may finish first.
    """
    # The worker is also `python -m perdure.worker`, which reads Temporal's own variables.
    for name, value in (
        ("TEMPORAL_ADDRESS", options.address),
        ("TEMPORAL_NAMESPACE", options.namespace),
        ("TEMPORAL_PROFILE", options.profile),
        ("PERDURE_TASK_QUEUE", task_queue),
    ):
        if value is not None:
            os.environ[name] = value
    from perdure.worker import main

    main(modules or [])
