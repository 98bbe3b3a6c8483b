"""What is wrong here and what to do about it: `perdure doctor`, and `version` and `completion`.

`cli.py` declares the commands, `work.py` has the checks, one function each, `versions.py` says what is installed. A check
never raises: it says ok, warn or fail. Add one to `work.check_all`.
"""
