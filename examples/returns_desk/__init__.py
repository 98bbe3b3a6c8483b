"""How does a business run on perdure? A returns desk: triage the mail, ask a person about edge cases, refund exactly once.

Must not break: the names of its workflow, actions and fields stand in stored histories, and `perdure demo` performs it.
`desk` is the procedure in Python, `returns.yaml` the same as a plan; `desk_connectors` has the actions, `models.toml` the
routes; `shop`, `shop_api` and `shop_books` are a stand-in for the shop, `demo` and `stage` perform it, faults included.
"""
