"""The process that runs one GGUF file: started as a script by `gguf`, it answers requests on its input.

A line of JSON each way. It imports nothing of ours, and ends when its input does: with the worker, however that ends.
"""

from __future__ import annotations

import hashlib
import importlib
import json
import os
import queue
import secrets
import signal
import sys
import threading
from contextlib import suppress
from pathlib import Path
from typing import Any, BinaryIO

Message = dict[str, Any]

_TOO_LONG = "exceed_context_size_error"


def main(file: str, context: str) -> None:
    """Load FILE for prompts and answers of CONTEXT tokens together, say so, and answer until the input ends."""
    # What the native library prints must not come between the answers.
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    # The worker says when to end. A Ctrl-C goes to all processes of a terminal, and the worker finishes its work first.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    with suppress(OSError):  # Linux only: who has to give up memory should be this process and not the worker
        Path("/proc/self/oom_score_adj").write_text("500")
    try:
        model = Model(file, int(context))
    except Exception as error:  # noqa: BLE001  # the worker is told
        _say(answers, {"failed": f"{type(error).__name__}: {error}"})
        return
    _say(answers, {"ready": model.digest})
    requests: queue.SimpleQueue[Message] = queue.SimpleQueue()
    threading.Thread(target=_read, args=(requests, model.stopped), daemon=True).start()
    while True:
        request = requests.get()
        _say(answers, {"number": request["number"], **model.answer(request)})


class Model:
    """A loaded GGUF file."""

    def __init__(self, file: str, context: int) -> None:
        with Path(file).open("rb") as content:
            self.digest = hashlib.file_digest(content, "sha256").hexdigest()
        native = importlib.import_module("xllamacpp")
        params = native.CommonParams()
        params.model.path = file
        params.n_ctx = context
        params.n_parallel = 1
        params.cpuparams.n_threads = 1
        params.cpuparams_batch.n_threads = 1
        params.fit_params = False
        params.warmup = False
        # Otherwise it keeps up to 8 GB of earlier prompts.
        params.cache_ram_mib = 0
        # It serves HTTP on a free port of 127.0.0.1, which cannot be turned off, so nobody knows the key.
        params.api_keys = [secrets.token_hex(32)]
        params.n_threads_http = 1
        params.ui = False
        params.endpoint_slots = False
        params.verbosity = 1
        self._server = native.Server(params)
        self.stopped: set[int] = set()
        """The numbers of requests whose answers nobody waits for any more."""

    def answer(self, request: Message) -> Message:
        """Return the answer to REQUEST, or the kind of error. Its form is loosened where no grammar can be made of it."""
        wanted = request.pop("response_format", None)
        forms = [wanted, {"type": "json_object"}, None] if wanted else [None]
        told: Message = {}
        for form in forms:
            told = self._complete(request, form)
            if told.get("error") != "refused":
                return {**told, "loosened": form != wanted}
        return told

    def _complete(self, request: Message, form: object) -> Message:
        number, text, last = request["number"], [], {}
        finish = ""

        def more(chunk: Message) -> bool:
            nonlocal finish, last
            for choice in chunk.get("choices", ()):
                text.append(choice["delta"].get("content") or "")
                finish = choice.get("finish_reason") or finish
            last = chunk
            return number in self.stopped

        asked = {
            "messages": request["messages"],
            "max_tokens": request["max_tokens"],
            "temperature": request["temperature"],
            "stream": True,
            "stream_options": {"include_usage": True},
            **({"response_format": form} if form else {}),
        }
        try:
            failed = self._server.handle_chat_completions(asked, more)
        except Exception:  # noqa: BLE001  # a schema that it cannot make a grammar of, or a template that it cannot fill
            return {"error": "refused"}
        # It tells of an error by its result, or by the only chunk.
        error = next((each["error"] for each in (failed, last) if isinstance(each, dict) and "error" in each), None)
        if error is not None:
            return {"error": "too long" if error.get("type") == _TOO_LONG else "refused"}
        if number in self.stopped:
            return {"error": "stopped"}
        usage = last.get("usage") or {}
        return {
            "text": "".join(text),
            "finish": finish,
            "tokens": [usage.get("prompt_tokens", 0), usage.get("completion_tokens", 0)],
            "cached": (usage.get("prompt_tokens_details") or {}).get("cached_tokens", 0),
        }


def _read(requests: queue.SimpleQueue[Message], stopped: set[int]) -> None:
    for line in sys.stdin.buffer:
        message = json.loads(line)
        if "stop" in message:
            stopped.add(message["stop"])
        else:
            requests.put(message)
    # Not sys.exit: the model may be in the middle of an answer, in native code.
    os._exit(0)


def _say(answers: BinaryIO, message: Message) -> None:
    answers.write(json.dumps(message).encode() + b"\n")
    answers.flush()


if __name__ == "__main__":
    main(*sys.argv[1:])
