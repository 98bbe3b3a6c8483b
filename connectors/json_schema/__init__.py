"""How a value is checked against a JSON Schema that somebody else wrote, in whichever draft. Safe in workflow code.

Documents are read as they are meant: tuples and bounds of older drafts, `nullable`, `[]` where PHP has no `{}`. Must not
break: whatever schema and value come along, nothing is fetched, nothing raised, and no value refused that fits. A keyword
that cannot be checked here is left out, since who wrote it checks it too; `Checker.unchecked` says where. How documents
are read goes into `_reader`, what a keyword means into `checker`.
"""

from perdure.connectors.json_schema.checker import Checker, Schema, find_misfit

__all__ = ["Checker", "Schema", "find_misfit"]
