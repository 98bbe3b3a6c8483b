"""What the agents know, since when and from where; and how it is forgotten, moved and checked: `perdure memory`.

`cli.py` declares the commands, `scopes.py` reads whose memory is meant, `work.py` does it. What needs the index is asked of
the worker that owns it, or done here where none does; nothing that memories say goes through Temporal.
"""
