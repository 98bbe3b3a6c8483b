"""Everything on one machine: `perdure dev`, `worker` and `demo`.

`cli.py` declares the commands. `work.py` keeps a server (`server.py`) and a worker (`worker_process.py`) up, each a child
process that goes when this one goes (`child_process.py`); `demo.py` shows the returns desk. Add a command to `cli.py`
and its work beside it.
"""
