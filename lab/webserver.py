"""Run a web server outside of the overlay: nginx in its host's namespace, with an access log."""

from __future__ import annotations

from pathlib import Path
from typing import Self

from lab.nodes import wait_until
from lab.underlay import LaboratoryHost

__all__ = ["WebServer"]


class WebServer:
    """nginx on port 80 over IPv4 and IPv6; a context manager."""

    def __init__(self, host: LaboratoryHost, directory: Path) -> None:
        self.host = host
        self.address = str(host.ipv4.ip)
        self.address6 = str(host.ipv6.ip)
        self._directory = directory
        self._root = directory / "www"
        self._log = directory / "access.log"

    def publish(self, name: str, content: bytes) -> None:
        """Serve ``content`` as ``/name``."""
        (self._root / name).write_bytes(content)

    def clients(self) -> set[str]:
        """Return the source addresses of requests in the access log."""
        return {line.split()[0] for line in self._log.read_text().splitlines() if line}

    def __enter__(self) -> Self:
        self._root.mkdir(parents=True, exist_ok=True)
        for parent in (self._directory, self._root, *self._directory.parents):
            # Workers of nginx may run as another user.
            if parent.stat().st_mode & 0o001 == 0 and parent != Path("/"):
                parent.chmod(parent.stat().st_mode | 0o011)
        configuration = self._directory / "nginx.conf"
        configuration.write_text(self._configuration())
        self._log.touch()
        self.host.namespace.popen(
            ["nginx", "-e", str(self._directory / "error.log"), "-c", str(configuration)]
        )
        wait_until("the web server", self._answers, timeout_s=60)
        self._log.write_text("")
        return self

    def __exit__(self, *_: object) -> None:
        """Do nothing, because the namespace ends its programs."""

    def _answers(self) -> bool:
        probe = ["curl", "-s", "-o", "/dev/null", f"http://{self.address}/"]
        return self.host.namespace.run(probe, check=False).returncode == 0

    def _configuration(self) -> str:
        temporary = "\n".join(
            f"  {kind}_temp_path {self._directory}/{kind};"
            for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
        )
        return f"""\
daemon off;
user root;
worker_processes 1;
pid {self._directory}/nginx.pid;
events {{ worker_connections 256; }}
http {{
{temporary}
  access_log {self._log};
  sendfile on;
  server {{
    listen 80;
    listen [::]:80;
    root {self._root};
  }}
}}
"""
