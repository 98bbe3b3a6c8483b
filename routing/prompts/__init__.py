"""What a model is asked, and what its text says.

`render` writes the messages, `Form` reads one JSON value strictly. Must not break: no secret goes into a prompt, and
an answer is valid against its form or an error; never a guess. A new slip that is safe to mend goes into `reading`,
with the text that had it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from perdure.lazy import lazy

if TYPE_CHECKING:
    from perdure.routing.prompts.answers import Answer, Form, most_prompt_tokens, resolve_output
    from perdure.routing.prompts.checks import load_checks
    from perdure.routing.prompts.inputs import check_inputs, holds_secret, refuse_secrets
    from perdure.routing.prompts.prompts import (
        Messages,
        ask_again,
        estimate_tokens,
        may_fit,
        render,
        size_in_bytes,
    )
    from perdure.routing.prompts.reading import Misfit
else:
    __getattr__ = lazy(
        __name__,
        {
            "answers": ["Answer", "Form", "most_prompt_tokens", "resolve_output"],
            "checks": ["load_checks"],
            "inputs": ["check_inputs", "holds_secret", "refuse_secrets"],
            "prompts": ["Messages", "ask_again", "estimate_tokens", "may_fit", "render", "size_in_bytes"],
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
    "estimate_tokens",
    "holds_secret",
    "load_checks",
    "may_fit",
    "most_prompt_tokens",
    "refuse_secrets",
    "render",
    "resolve_output",
    "size_in_bytes",
]
