"""What a model is asked, and what its text says.

`render` writes the messages, `Form` reads one JSON value strictly. Must not break: no secret goes into a prompt, and
an answer is valid against its form or an error; never a guess. A new slip that is safe to mend goes into `reading`,
with the text that had it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from perdure.lazy import lazy

if TYPE_CHECKING:
    from perdure.routing.prompts.answers import Answer, Form, resolve_output
    from perdure.routing.prompts.checks import checks_of
    from perdure.routing.prompts.inputs import check_inputs, holds_secret, refuse_secrets
    from perdure.routing.prompts.prompts import (
        Messages,
        ask_again,
        fits,
        most_tokens,
        render,
        size,
    )
    from perdure.routing.prompts.reading import Misfit
else:
    __getattr__ = lazy(
        __name__,
        {
            "answers": ["Answer", "Form", "resolve_output"],
            "checks": ["checks_of"],
            "inputs": ["check_inputs", "holds_secret", "refuse_secrets"],
            "prompts": ["Messages", "ask_again", "fits", "most_tokens", "render", "size"],
            "reading": ["Misfit"],
        },
    )

__all__ = [
    "Answer",
    "Form",
    "Messages",
    "Misfit",
    "ask_again",
    "check_inputs",
    "checks_of",
    "fits",
    "holds_secret",
    "most_tokens",
    "refuse_secrets",
    "render",
    "resolve_output",
    "size",
]
