"""A process with many workers that need the same access token at once: prints how many got through."""

from __future__ import annotations

import asyncio
import json
import sys

from perdure.connectors import EffectCall, HttpAction, HttpConnector
from perdure.connectors.ledger import Ledger
from perdure.errors import EffectError
from perdure.lineage import Frozen, Lineage, StepRef
from perdure.storage import Database


class Nothing(Frozen):
    """Nothing to say."""


class Read(HttpConnector):
    """A target that wants a token."""

    look = HttpAction("guarded.look", Nothing, Nothing, request="GET /", reads=True)


async def main() -> None:
    """Have all workers look."""
    given = json.loads(sys.argv[1])
    database = Database(given["database"])
    options = {"token_url": f"{given['url']}/token", "client_id": "desk", "client_secret": "hush", "refresh_token": "r-0"}
    connector = Read().with_options({"url": given["url"], **options})
    connector.share(database)
    ledger = Ledger(database, {"guarded": connector})
    done = await asyncio.gather(*(_look(ledger) for _ in range(given["workers"])))
    await connector.close()
    await database.close()
    sys.stdout.write(json.dumps({"done": sum(done)}) + "\n")


async def _look(ledger: Ledger) -> bool:
    lineage = Lineage(namespace="default", workflow_id="w", first_execution_run_id="r")
    call = EffectCall(step=StepRef(lineage=lineage, name="look"), action="guarded.look", args={})
    for _ in range(100):
        try:
            await ledger.perform(call)
        except EffectError as error:
            if not error.retryable:
                return False
            await asyncio.sleep(error.retry_after.total_seconds() if error.retry_after else 0.05)
        else:
            return True
    return False


if __name__ == "__main__":
    asyncio.run(main())
