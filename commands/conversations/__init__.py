"""What runs have said with models, as far as it is kept; and how it is erased or held: `perdure conversation`.

`cli.py` declares the commands, `work.py` does it. An erasure goes the way of a memory's: the owner of the index erases.
"""
