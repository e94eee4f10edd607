"""The API server, asked directly: what conditions are awaited on. What users see is asked of kubectl."""

import http.client
import json
import ssl
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

from .pki import SERVER

TABLE = "application/json;as=Table;v=v1;g=meta.k8s.io"


class Api:
    """The API as admin, with the certificates of the folder."""

    def __init__(self, keys: Path) -> None:
        self._keys = keys
        self._context: ssl.SSLContext | None = None

    def find(self, path: str, *, accept: str = "application/json") -> dict[str, Any] | None:
        """The object, or None where there is none or no server yet."""
        answer = self._get(path, accept)
        return None if answer is None else json.loads(answer)

    def text(self, path: str) -> str:
        return (self._get(path, "*/*") or b"").decode()

    def columns(self, path: str) -> dict[str, str]:
        """What kubectl prints of the object, by the column's name; empty where there is no such object."""
        table = self.find(path, accept=TABLE)
        if table is None:
            return {}
        names = [column["name"] for column in table["columnDefinitions"]]
        return {name: str(cell) for name, cell in zip(names, table["rows"][0]["cells"], strict=True)}

    def _get(self, path: str, accept: str) -> bytes | None:
        request = urllib.request.Request(f"{SERVER}{path}", headers={"Accept": accept})
        try:
            with urllib.request.urlopen(request, context=self._tls(), timeout=30) as response:
                content: bytes = response.read()
                return content
        except urllib.error.HTTPError as error:
            with error:
                if error.code in {403, 404, 500, 503}:  # not there, or the server is still starting
                    return None
                raise
        except (urllib.error.URLError, ConnectionError, http.client.HTTPException, TimeoutError):
            return None

    def _tls(self) -> ssl.SSLContext:
        if self._context is None:
            self._context = ssl.create_default_context(cafile=str(self._keys / "ca.crt"))
            self._context.load_cert_chain(self._keys / "admin.crt", self._keys / "admin.key")
        return self._context
