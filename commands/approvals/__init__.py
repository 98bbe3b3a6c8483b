"""What people are asked, and what they say: `perdure approval`.

`cli.py` declares the commands, `work.py` reads requests and sends decisions. A decision binds to the digest of what was
read, and the same decision sent twice is one. Add a command to `cli.py` and its work to `work.py`.
"""
