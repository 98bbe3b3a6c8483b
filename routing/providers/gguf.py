"""How a GGUF file on this machine answers: in a process of its own, which may crash or be ended without the worker."""

from __future__ import annotations

import asyncio
import importlib.util
import itertools
import json
import signal
import sys
from collections import deque
from contextlib import suppress
from pathlib import Path
from typing import Any

import structlog

from perdure.errors import InvalidSettings
from perdure.routing.prompts import Form, Messages
from perdure.routing.providers.failures import ProviderFailure
from perdure.routing.providers.litellm import ProviderFailed, Reply, output_arguments
from perdure.routing.routes import Deployment

log = structlog.get_logger(__name__)

SCRIPT = Path(__file__).with_name("_gguf_run.py")

PATIENCE = 2.0
"""So many seconds a process has to stop generating. While it reads a long prompt it cannot, and is ended."""

_LINE = 64 * 1024 * 1024


def why_not_runnable(file: Path) -> str:
    """Return why FILE cannot be run here, as far as that shows without loading it, and what to do; empty: nothing."""
    if importlib.util.find_spec("xllamacpp") is None:
        return "running a GGUF file takes an extra that is not installed here. Install it: pip install 'perdure[gguf]'"
    try:
        with file.open("rb") as content:
            begins = content.read(4)
    except OSError as error:
        return f"{file} cannot be read: {error.strerror}. Write the path of a GGUF file, relative to this file"
    if begins != b"GGUF":
        return f"{file} is not a GGUF file: it does not begin with GGUF. Download it again, or convert the model to GGUF"
    return ""


class Gguf:
    """The model of DEPLOYMENT, one answer at a time on one core. PLACE is where the file is named, for errors."""

    def __init__(self, deployment: Deployment, place: str) -> None:
        assert deployment.file is not None
        self._deployment = deployment
        self._file = deployment.file
        self._place = place
        self._process: _Process | None = None
        self._loading: asyncio.Task[_Process] | None = None
        self._turn = asyncio.Lock()
        self._stopping: asyncio.Task[None] | None = None
        self._told: set[str] = set()

    @property
    def pid(self) -> int | None:
        """The process that runs it, if there is one."""
        return self._process.pid if self._process is not None and not self._process.gone else None

    async def start(self) -> None:
        """Load the file, if it is not loaded. Raises `InvalidSettings` with what the loader says and where it is named."""
        async with self._turn:
            await self._running()

    async def version(self) -> str:
        """Return the SHA-256 of the file that answers, empty if it cannot be loaded."""
        if self.pid is None:
            with suppress(InvalidSettings):
                await self.start()
        return self._process.version if self._process is not None else ""

    async def close(self) -> None:
        """End the process."""
        if self._stopping is not None:
            await self._stopping
        if self._loading is not None:
            self._loading.cancel()
            [loaded] = await asyncio.gather(self._loading, return_exceptions=True)
            if isinstance(loaded, _Process):  # whoever wanted it had given up
                await loaded.kill()
        if self._process is not None:
            await self._process.kill()

    async def complete(self, messages: Messages, form: Form, *, timeout: float, temperature: float) -> Reply:
        """Return the answer to MESSAGES within TIMEOUT seconds, with the wait for its turn. Raises `ProviderFailed`."""
        failure: ProviderFailure
        try:
            async with asyncio.timeout(timeout):
                return await self._complete(messages, form, temperature)
        except TimeoutError:
            failure = ProviderFailure("again", f"did not answer within {timeout:g} s", "time-out")
        except _ProcessEnded as error:
            failure = ProviderFailure("again", f"could not answer: {error}", "crashed")
        except InvalidSettings as error:
            failure = ProviderFailure("elsewhere", f"cannot be run: {error.message}", "not loaded")
        raise ProviderFailed(failure)

    async def _complete(self, messages: Messages, form: Form, temperature: float) -> Reply:
        asked = {
            "messages": messages,
            "max_tokens": self._deployment.max_tokens,
            "temperature": temperature,
            **output_arguments(self._deployment, form),
        }
        async with self._turn:
            process = await self._running()
            number, answer = process.ask(asked)
            try:
                told = await answer
            except asyncio.CancelledError:
                # Whoever gave up has not to wait until it has stopped; who comes next has.
                self._stopping = asyncio.create_task(process.stop(number), name="stop a local model")
                raise
        if "error" in told:
            raise ProviderFailed(_failure(told["error"]))
        if told["loosened"] and form.name not in self._told:
            self._told.add(form.name)
            log.warning(
                "a local model is not held to the form of the answer: no grammar can be made of its schema",
                deployment=self._deployment.name,
                output=form.name,
            )
        return Reply(
            text=told["text"],
            model=process.version,
            finish=told["finish"],
            tokens=(told["tokens"][0], told["tokens"][1]),
            cached_tokens=told["cached"],
        )

    async def _running(self) -> _Process:
        if self._stopping is not None:
            await asyncio.shield(self._stopping)
        if self._process is not None and not self._process.gone:
            return self._process
        if self._loading is None:
            self._loading = asyncio.create_task(self._load(), name="load a local model")
        loading = self._loading
        try:
            # A call may give up while a large file is loaded; the next one finds it loaded.
            process = await asyncio.shield(loading)
        finally:
            if loading.done():
                self._loading = None
        self._process = process
        return process

    async def _load(self) -> _Process:
        if wrong := why_not_runnable(self._file):
            raise InvalidSettings(f"{self._place}: {wrong}")
        try:
            process = await _Process.start(self._file, self._deployment.context)
        except _ProcessEnded as error:
            raise InvalidSettings(
                f"{self._place}: {self._file} cannot be loaded: {error}. Download it again if it is cut short; otherwise "
                "use a model that this release of xllamacpp knows, and that fits into memory with its `context`"
            ) from None
        log.info("model loaded", deployment=self._deployment.name, version=process.version, pid=process.pid)
        return process


def _failure(kind: str) -> ProviderFailure:
    if kind == "too long":
        return ProviderFailure("elsewhere", "has too small a `context` for the inputs", "context_length_exceeded")
    return ProviderFailure("elsewhere", "could not make a prompt of the messages with the model's template", kind)


class _ProcessEnded(Exception):
    """The process has ended, or could not begin."""


class _Process:
    """A running process of `_gguf_run.py`. Made by `start`."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.version = ""
        """The SHA-256 of the file that it runs."""
        self.gone = False
        self._process = process
        self._numbers = itertools.count(1)
        self._waiting: dict[int, asyncio.Future[dict[str, Any]]] = {}
        self._ready: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self._said: deque[str] = deque(maxlen=20)
        self._reading = asyncio.gather(self._read(), self._keep_stderr())

    @classmethod
    async def start(cls, file: Path, context: int) -> _Process:
        process = await asyncio.create_subprocess_exec(
            # -P: our modules lie beside the script, and must not be found by their short names.
            *(sys.executable, "-P", str(SCRIPT), str(file), str(context)),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            limit=_LINE,
        )
        started = cls(process)
        try:
            started.version = f"sha256:{await started._ready}"
        except BaseException:
            await started.kill()
            raise
        return started

    @property
    def pid(self) -> int:
        return self._process.pid

    def ask(self, request: dict[str, Any]) -> tuple[int, asyncio.Future[dict[str, Any]]]:
        """Send REQUEST; return its number and its answer to come, which raises `_ProcessEnded` if there will be none."""
        number = next(self._numbers)
        answer: asyncio.Future[dict[str, Any]] = asyncio.get_running_loop().create_future()
        if self.gone:
            answer.set_exception(_ProcessEnded(self._why()))
        else:
            self._waiting[number] = answer
            self._write({"number": number, **request})
        return number, answer

    async def stop(self, number: int) -> None:
        """Let it stop generating the answer NUMBER; if it does not soon, end it."""
        stopped: asyncio.Future[dict[str, Any]] = asyncio.get_running_loop().create_future()
        if self.gone or number not in self._waiting:
            return
        self._waiting[number] = stopped
        self._write({"stop": number})
        try:
            await asyncio.wait_for(stopped, PATIENCE)
        except TimeoutError:
            await self.kill()
        except _ProcessEnded:
            pass

    async def kill(self) -> None:
        """End it at once."""
        if self._process.returncode is None:
            with suppress(ProcessLookupError):
                self._process.kill()
        assert self._process.stdin is not None
        self._process.stdin.close()
        await self._process.wait()
        await self._reading

    def _write(self, message: dict[str, Any]) -> None:
        assert self._process.stdin is not None
        with suppress(ConnectionError):  # the reader tells that it is gone
            self._process.stdin.write(json.dumps(message).encode() + b"\n")

    async def _read(self) -> None:
        assert self._process.stdout is not None
        failed = ""
        while line := await self._process.stdout.readline():
            told = json.loads(line)
            if "ready" in told:
                self._said.clear()
                self._ready.set_result(told["ready"])
            elif "failed" in told:
                failed = told["failed"]
            elif (waiting := self._waiting.pop(told["number"], None)) is not None and not waiting.done():
                waiting.set_result(told)
        await self._process.wait()
        self.gone = True
        ended = _ProcessEnded(self._why(failed))
        if not self._ready.done():
            self._ready.set_exception(ended)
            self._ready.exception()  # who waited for it may have given up
        for unanswered in self._waiting.values():
            if not unanswered.done():
                unanswered.set_exception(ended)
                unanswered.exception()  # nobody may be waiting any more

    async def _keep_stderr(self) -> None:
        """Keep what the loader says. Later it may say parts of prompts, so that is not kept."""
        assert self._process.stderr is not None
        while line := await self._process.stderr.readline():
            if not self._ready.done():
                self._said.append(line.decode(errors="replace").strip())

    def _why(self, failed: str = "") -> str:
        code = self._process.returncode
        said = next(
            (line.partition("error loading model: ")[2] for line in self._said if "error loading model: " in line), ""
        )
        said = said.removeprefix("llama_model_loader: ")
        if said or failed:
            return said or failed
        if code is not None and code < 0:
            ended = f"its process was ended by {signal.Signals(-code).name}"
            return f"{ended}, perhaps for want of memory" if code == -signal.SIGKILL else ended
        return f"its process ended with status {code}"
