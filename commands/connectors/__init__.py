"""What there is to act through, and whether ledger, targets and contracts agree: `perdure connectors`.

`cli.py` declares the commands, `work.py` has a worker look at the targets and prints what the database knows. No target is
asked from here: credentials are the worker's alone. Add a command to `cli.py` and its work to `work.py`.
"""
