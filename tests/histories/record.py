"""Records the stored histories anew. Run it by hand after a change that old runs do not have to survive.

    python tests/histories/record.py [NAME...]

It writes NAME@VERSION.json, with perdure's version, for every case of cases.py or for those named. A file of an earlier
version stays for as long as runs of that version may be alive: tests/test_histories.py replays every file there is.
"""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

if __name__ == "__main__":
    # As pytest has it. The sandbox imports workflows anew by the names of their modules.
    sys.path[0] = str(Path(__file__).parent.parent)
    from histories.cases import record

    asyncio.run(record(sys.argv[1:]))
