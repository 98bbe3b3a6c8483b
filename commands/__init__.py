"""The commands of `perdure`, a package for each family of them.

Each family has the same shape: `cli.py` is what Typer sees, `work.py` what the commands do, more only where needed. What
several families share lies here: options, output (with the one `table`), exits, session, inputs, links, durations,
scheduling, on_worker. No family imports another's `cli.py`, and a `cli.py` imports nothing heavy: help has to come at once.
Add a family with its `app` to `perdure/cli.py`.
"""
