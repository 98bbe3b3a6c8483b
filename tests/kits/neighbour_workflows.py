"""A workflow whose words nobody else may read, in a module of its own for the sandbox."""

from __future__ import annotations

from datetime import timedelta

from temporalio import workflow

from perdure.connectors.null import Entry, null
from perdure.workflows import Conversation, act, approval, customer, recall, remember


@workflow.defn
class TellsSecrets:
    """Says the same words in each kind of step, in two runs, and returns what it remembers."""

    @workflow.run
    async def run(self, secret: str, lap: int = 0) -> list[str]:
        conversation = Conversation("desk")
        conversation.user(secret)
        if lap == 0:
            workflow.continue_as_new(args=[secret, 1])
        await conversation.keep()
        await remember(customer("c-1"), secret, summary=f"Remember {secret}")
        await act(null.write, Entry(text=secret))
        await approval(f"Say {secret}?", of="editor", about=secret)
        await workflow.sleep(timedelta(milliseconds=1), summary=f"Sleep over {secret}")
        workflow.set_current_details(secret)
        found = await recall(secret, scope=customer("c-1"))
        return list(found.texts)
