"""Where the Temporal Web UI shows a run or a list."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote, urlencode

if TYPE_CHECKING:
    from temporalio.client import Client

    from perdure.settings import Settings

DEV_SERVER_FILE = "dev.json"
"""What `perdure dev` writes under `home`: where its server and its Web UI are."""


@dataclass(frozen=True)
class Links:
    """Links into the Web UI, empty where nobody knows it."""

    base: str
    namespace: str

    @classmethod
    def of(cls, client: Client, settings: Settings) -> Links:
        """Return the links for CLIENT's server: Temporal Cloud's, `perdure dev`'s, or the dev server's usual port."""
        address = client.service_client.config.target_host
        return cls(_base(address, settings.home), client.namespace)

    def run(self, workflow_id: str, run_id: str = "") -> str:
        """Return the link to a run."""
        if not self.base:
            return ""
        path = f"{self.base}/namespaces/{quote(self.namespace, safe='')}/workflows/{quote(workflow_id, safe='')}"
        return f"{path}/{run_id}/history" if run_id else path

    def runs(self, query: str = "") -> str:
        """Return the link to the list of runs that QUERY finds."""
        if not self.base:
            return ""
        found = f"?{urlencode({'query': query})}" if query else ""
        return f"{self.base}/namespaces/{quote(self.namespace, safe='')}/workflows{found}"


def _base(address: str, home: Path) -> str:
    host, _, port = address.rpartition(":")
    if host.endswith((".tmprl.cloud", ".api.temporal.io")):
        return "https://cloud.temporal.io"
    if host not in ("localhost", "127.0.0.1", "[::1]"):
        return ""
    note = _note(home)
    if note.get("address", "").rpartition(":")[2] == port:
        return note.get("ui", "")
    return f"http://localhost:{int(port) + 1000}" if port == "7233" else ""


def _note(home: Path) -> dict[str, str]:
    try:
        found = json.loads((home / DEV_SERVER_FILE).read_text("utf-8"))
    except (OSError, ValueError):
        # No dev server was started here, or it is writing this moment: then there is no link to give.
        return {}
    return found if isinstance(found, dict) else {}
