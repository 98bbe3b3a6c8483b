"""What is installed here, in which version."""

from __future__ import annotations

import platform


def read_versions() -> dict[str, str]:
    """Return what is installed."""
    import subprocess
    from importlib.metadata import PackageNotFoundError
    from importlib.metadata import version as installed

    from perdure import __version__
    from perdure.commands.dev.server import temporal_program
    from perdure.errors import InvalidSettings

    found = {"perdure": __version__, "python": platform.python_version()}
    for name in ("temporalio", "litellm", "pydantic"):
        try:
            found[name] = installed(name)
        except PackageNotFoundError:
            found[name] = "not installed"
    try:
        said = subprocess.run([temporal_program(), "--version"], capture_output=True, text=True, timeout=10, check=True)
        found["temporal server"] = said.stdout.strip().removeprefix("temporal version ")
    except (InvalidSettings, OSError, subprocess.SubprocessError) as error:
        found["temporal server"] = f"not installed ({str(error).splitlines()[0]})"
    return found
