"""Format the reports of a running node as text for people."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

from overlay.cli.tables import facts, printable, table
from overlay.control.service import PathReport, PeerReport, StatusReport
from overlay.plurals import counted

__all__ = ["path_text", "paths_text", "peers_text", "status_text"]


def status_text(report: StatusReport) -> str:
    """Return the summary of a node's state, an empty line, and one fact per line."""
    verdict = f"{printable(report.verdict)}\n\n" if report.verdict else ""
    return verdict + facts(
        [
            ("node", report.node_id),
            ("overlay address", report.overlay_address),
            ("network", report.network_id),
            ("version", report.version),
            ("up for", _duration(report.uptime_s)),
            ("listening on", _listed(report.listen)),
            ("others are told", _listed(report.endpoints)),
            *(("tested by others", f"{e}: {found}") for e, found in report.reachability.items()),
            *(("network", problem) for problem in report.network_problems),
            ("roles", _listed(report.roles)),
            *(("exit withdrawn", problem) for problem in report.exit_problems),
            ("joined", "yes" if report.joined else "no"),
            ("contacts", str(report.contacts)),
            ("mix-nodes known", f"{report.mix_nodes}, of which exits {report.exits}"),
            ("coverage", _coverage(report)),
            ("links", _links(report)),
            ("circuits", _circuits(report)),
            ("protected", _listed(report.protected)),
            *(
                ("also blocked", f"{version}, except for local addresses")
                for version in report.blocked_versions
            ),
            *(
                ("NOT PROTECTED", f"{each}: packets can leave directly")
                for each in report.unprotected
            ),
            *([("because", report.unprotected_reason)] if report.unprotected else []),
            ("protection", _protection(report)),
            ("ipsec backend", f"{report.backend} ({report.backend_reason})"),
            ("tfc", report.tfc),
            ("forwarding", report.forwarding),
            ("counters", _counted(report.counters)),
            ("drops", _counted(report.drops)),
        ]
    )


def _protection(report: StatusReport) -> str:
    if report.protection:
        return f"NOT COMPLETE, missing: {', '.join(report.protection)}"
    repairs = sum(n for name, n in report.counters.items() if name.startswith("repaired_"))
    return "in force" + (f"; repaired {_times(repairs)}" if repairs else "")


def peers_text(reports: Sequence[PeerReport]) -> str:
    """Return the Mix-nodes Topology Table, one Mix-node per line."""
    if not reports:
        return "No Mix-nodes are known yet."
    heading = (
        "NODE",
        "OVERLAY ADDRESS",
        "ENDPOINTS",
        "ROLES",
        "KBIT/S",
        "LINK",
        "HEARD",
        "EXPIRES",
        "EXIT POLICY",
    )
    return table(heading, [_peer_row(report) for report in reports])


def paths_text(reports: Sequence[PathReport]) -> str:
    """Return the paths, one per line."""
    if not reports:
        return 'No paths are open; open one with "overlay path open DESTINATION".'
    heading = (
        "PATH",
        "DESTINATION",
        "STATE",
        "HOPS",
        "INNER ADDRESS",
        "RTT",
        "AGE",
        "MTU",
        "LINK",
        "STANDBY",
        "STRATEGY",
    )
    listed = table(heading, [_path_row(report) for report in reports])
    troubles = [
        f"Path {report.number} is {report.state}: {_trouble(report)}."
        for report in reports
        if _trouble(report)
    ]
    return "\n".join([listed, *map(printable, troubles), *_unprotected_sentences(reports)])


def _trouble(report: PathReport) -> str:
    """Return why a path carries no packets and what happens next; "" if it is open."""
    if report.state == "open":
        return ""
    next_try = report.next_try_s
    going_on = "a circuit is being built now"
    if next_try is not None and round(next_try):
        going_on = f"the next attempt follows in {next_try:.0f} s"
    if report.state == "closing":
        going_on = "the operating system has not released the destination yet"
    failed = f"{report.attempts} attempts failed" if report.attempts > 1 else ""
    return "; ".join(each for each in (report.trouble, failed, going_on) if each)


def _unprotected_sentences(reports: Sequence[PathReport]) -> list[str]:
    """Return one line per reason why destinations of paths are not blocked."""
    reasons = dict.fromkeys(report.unprotected for report in reports if report.unprotected)
    return [
        f"NOT PROTECTED, packets can leave directly: path "
        f"{', '.join(str(each.number) for each in reports if each.unprotected == reason)}. "
        f"The node tries again. Reason: {reason}"
        for reason in reasons
    ]


def path_text(report: PathReport) -> str:
    """Return one path, one fact per line, with its hops in order."""
    hops = [
        (f"hop {number}", f"{hop.overlay_address} (node {hop.node_id})")
        for number, hop in enumerate(report.hops, 1)
    ]
    return facts(
        [
            ("path", str(report.number)),
            ("destination", report.destination),
            ("state", report.state),
            *([("because", _trouble(report))] if _trouble(report) else []),
            *([("NOT PROTECTED", report.unprotected)] if report.unprotected else []),
            *hops,
            ("inner address", _listed(report.inner_addresses)),
            ("round trip", _rtt(report.rtt_ms)),
            ("mtu", _mtu(report)),
            ("standby", _standby(report)),
            ("strategy", report.strategy),
            *([("also blocked", _other_family(report))] if report.both_versions else []),
            *([("permanent", "yes, it is opened at every start")] if report.permanent else []),
            *(("stays open", sentence) for sentence in report.stays_open),
        ]
    )


def _mtu(report: PathReport) -> str:
    if report.link_bytes is None or report.whole_bytes is None:
        return f"{report.mtu} bytes"
    pieces = "no packet is fragmented"
    if report.whole_bytes < report.mtu:
        pieces = f"packets above {report.whole_bytes} bytes are sent in fragments"
    return f"{report.mtu} bytes; the first link carries {report.link_bytes}, so {pieces}"


def _links(report: StatusReport) -> str:
    counts = Counter(report.link_bytes)
    sizes = ", ".join(f"{count} of {size} bytes" for size, count in sorted(counts.items()))
    return f"{report.links} ({sizes})" if sizes else str(report.links)


def _link(report: PeerReport) -> str:
    if not report.linked:
        return "-"
    return "up" if report.link_bytes is None else f"up, {_bytes(report.link_bytes)}"


def _bytes(count: int | None) -> str:
    return "-" if count is None else f"{count} bytes"


def _standby(report: PathReport) -> str:
    ready = "ready" if report.standby_ready else "none"
    return ready + (f"; took over {_times(report.takeovers)}" if report.takeovers else "")


def _times(count: int) -> str:
    return "once" if count == 1 else f"{count} times"


def _other_family(report: PathReport) -> str:
    return f"{'IPv4' if ':' in report.destination else 'IPv6'}, except for local addresses"


def _peer_row(report: PeerReport) -> tuple[str, ...]:
    return (
        report.node_id,
        report.overlay_address,
        _listed(report.endpoints),
        _listed(report.roles),
        str(report.bandwidth_kbit),
        _link(report),
        "never" if report.heard_s is None else f"{_duration(report.heard_s)} ago",
        _duration(report.expires_in_s),
        _listed(report.exit_policy),
    )


def _path_row(report: PathReport) -> tuple[str, ...]:
    return (
        str(report.number),
        report.destination,
        report.state + (", NOT PROTECTED" if report.unprotected else ""),
        " > ".join(hop.overlay_address for hop in report.hops) or "-",
        _listed(report.inner_addresses),
        _rtt(report.rtt_ms),
        _duration(report.age_s),
        str(report.mtu),
        _bytes(report.link_bytes),
        _standby(report),
        report.strategy,
    )


def _circuits(report: StatusReport) -> str:
    return (
        f"{report.circuits_own} own, {report.circuits_relayed} relayed, "
        f"{report.circuits_exit} leaving here"
    )


def _coverage(report: StatusReport) -> str:
    if not report.suspect_regions:
        return "no eclipse suspected"
    return (
        f"doubtful: an eclipse attack is suspected in {counted(report.suspect_regions, 'region')} "
        "of the DHT (one in a hundred regions looks so by chance)"
    )


def _counted(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{name} {count}" for name, count in sorted(counts.items()) if count) or "-"


def _listed(values: Sequence[str]) -> str:
    return ", ".join(values) or "-"


def _rtt(rtt_ms: float | None) -> str:
    return "-" if rtt_ms is None else f"{rtt_ms:.1f} ms"


def _duration(seconds: float) -> str:
    """Return a duration in its two largest units, as in "2h 05m"."""
    whole = max(0, int(seconds))
    minutes, hours, days = whole // 60, whole // 3600, whole // 86400
    if days:
        return f"{days}d {hours % 24:02}h"
    if hours:
        return f"{hours}h {minutes % 60:02}m"
    if minutes:
        return f"{minutes}m {whole % 60:02}s"
    return f"{whole}s"
