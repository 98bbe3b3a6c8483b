"""What was done to other systems, and what people say of what nobody else can know: `perdure effects`.

`cli.py` declares the commands, `work.py` reads the ledger and resolves what is parked, `stream.py` prints and publishes the
stream of events. A resolution is written down before the runs that wait for it are told, so that saying it again is safe.
"""
