"""What models cost, how they do, and what people decide about them: `cost`, `models`, `budgets`, `canary` and `routes`.

`cli.py` declares the commands; `work.py` reads costs, qualities and budgets, `canary.py` and `routes.py` do the work of
those two groups. All of it reads the database; no model is asked. Add a command to `cli.py` and its work beside it.
"""
