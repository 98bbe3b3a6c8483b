"""What runs there are, what they did, and what one says to them: `run`, `list`, `show`, `replay`, `signal` and the like.

`cli.py` declares the commands. `work.py` starts a run and watches it with `follow.py` and `views.py`; `listing.py`,
`history.py`, `replay.py` and `messages.py` do the work of the others, `tree.py` says how a step reads. Add a command to
`cli.py` and its work beside it. A run is read from Temporal's history alone, and goes on when nobody watches any more.
"""
