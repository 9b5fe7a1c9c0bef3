"""Asking ``overlay doctor`` on a host of the laboratory."""

import json
import sys

FACTS = (
    ["ip", "-o", "link"],
    ["ip", "address"],
    ["ip", "route", "show", "table", "all"],
    ["ip", "-6", "route", "show", "table", "all"],
    ["ip", "rule"],
    ["ip", "xfrm", "state", "count"],
    ["ip", "xfrm", "policy", "count"],
    ["cat", "/proc/net/udp", "/proc/net/udp6", "/proc/net/unix"],
    ["sysctl", "-a", "-r", "forward|rp_filter|src_valid_mark|accept_ra$"],
)


class Doctor:
    """One examination of a configured node."""

    def __init__(self, host, configuration, *, prefix=()):
        done = host.run(
            [*prefix, sys.executable, "-m", "overlay", "doctor", "--json", "--wait", "60",
             "--config", str(configuration)],
            check=False,
        )  # fmt: skip
        assert done.stderr == ""
        self.status = done.returncode
        self.report = json.loads(done.stdout)
        assert self.report["can_run"] is (self.status == 0)

    def outcome(self, subject):
        return self._named(subject)["outcome"]

    def said(self, subject):
        return self._named(subject)["said"]

    @property
    def obstacles(self):
        """The subjects that keep the node from running."""
        return [
            each["subject"]
            for each in self.report["findings"]
            if each["required"] and each["outcome"] == "lacks"
        ]

    def _named(self, subject):
        (found,) = (each for each in self.report["findings"] if each["subject"] == subject)
        return found


def facts(host):
    """What of a host an examination might change."""
    return [host.run(command, check=False).stdout for command in FACTS]


def configured(directory, **sections):
    """Make a node in ``directory`` with these settings, and return its configuration file."""
    from overlay.cli.main import main

    assert main(["init", "--dir", str(directory)]) == 0
    network = {"listen": ["127.0.0.1:4500"], "allow_private_endpoints": True}
    lines = []
    for section, settings in ({"network": network} | sections).items():
        lines.append(f"[{section}]")
        lines += [f"{name} = {json.dumps(value)}" for name, value in settings.items()]
    (directory / "overlay.toml").write_text("\n".join([*lines, ""]))
    return directory / "overlay.toml"
