import ipaddress
import socket

import pytest
import trio
from scapy.layers import inet
from scapy.layers.inet import ICMP, IP
from scapy.layers.inet6 import IPv6

from lab.reading import TCP, UDP
from overlay.errors import BackendError
from overlay.system.conntrack import forget_connections
from overlay.system.exit_filter import ExitFilter
from overlay.system.exit_networks import exit_gateway
from overlay.system.exit_problems import exit_problems
from overlay.system.iptables import Iptables
from overlay.system.kill_switch import KillSwitch
from overlay.system.nftables import Nftables
from overlay.system.tun import TunDevice

POOLS = (ipaddress.ip_network("100.64.0.0/10"), ipaddress.ip_network("fd99::/64"))
INNER = ("100.64.1.2", "fd99::12")
MTU = 1280

EXIT = """
import ipaddress, sys
from overlay.system.exit_filter import ExitFilter
from overlay.system.{module} import {name}
from overlay.system.tun import TunDevice

pools = [ipaddress.ip_network("100.64.0.0/10"), ipaddress.ip_network("fd99::/64")]
device = TunDevice.open("exit%d", 1280)
ExitFilter(device.name, pools, packet_filter={name}()).install()
print("ready", flush=True)
sys.stdin.read()
"""

REDIRECTION = """
table inet redirection {{
  chain prerouting {{
    type nat hook prerouting priority dstnat;
    udp dport 1 dnat ip to {four}
    udp dport 1 dnat ip6 to {six}
  }}
}}
"""

NGINX = """
user root root; daemon off; master_process off;
pid {directory}/pid; error_log {directory}/error.log;
events {{}}
http {{
  access_log {directory}/access.log;
  client_body_temp_path {directory}; proxy_temp_path {directory}; fastcgi_temp_path {directory};
  uwsgi_temp_path {directory}; scgi_temp_path {directory};
  server {{
    listen 80; listen [::]:80;
    location / {{ return 200 "$remote_addr"; }}
    location /large {{ alias {directory}/large; }}
  }}
}}
"""


@pytest.fixture(params=[Nftables, Iptables])
def filter_type(request):
    return request.param


@pytest.fixture
def hosts(wire_underlay):
    """The exit, which checks return paths strictly, and bob outside."""
    exit_host, bob = wire_underlay.add_host("exit"), wire_underlay.add_server("bob")
    exit_host.namespace.set_kernel(ipv4__conf__all__rp_filter=1)
    return exit_host, bob


@pytest.fixture
def web(hosts, tmp_path):
    """nginx at bob that answers with the address it sees, and a large file."""
    _, bob = hosts
    return start_nginx(bob.namespace, tmp_path / "nginx")


def start_nginx(namespace, directory):
    directory.mkdir()
    (directory / "large").write_bytes(bytes(2_000_000))
    (directory / "nginx.conf").write_text(NGINX.format(directory=directory))
    directory.chmod(0o777)
    namespace.popen(["nginx", "-c", str(directory / "nginx.conf"), "-p", str(directory)])
    namespace.run(
        ["curl", "-s", "--retry", "50", "--retry-connrefused", "--retry-delay", "0",
         "--retry-max-time", "10", "http://127.0.0.1/"]
    )  # fmt: skip
    return directory


class Circuit:
    """Stands in for a circuit: carries packets between a source's TUN and the exit's."""

    def __init__(self, source_namespace, source, exit_device):
        self.namespace = source_namespace
        self.source = source
        self.exit_device = exit_device

    def run(self, *commands):
        """Run programs in the source's namespace while packets are carried."""

        async def carry(origin, target):
            while True:
                target.write_batch(await origin.read_batch())

        async def scenario():
            async with trio.open_nursery() as nursery:
                nursery.start_soon(carry, self.source, self.exit_device)
                nursery.start_soon(carry, self.exit_device, self.source)
                done = [
                    await trio.to_thread.run_sync(
                        lambda c=command: self.namespace.run(c, check=False)
                    )
                    for command in commands
                ]
                nursery.cancel_scope.cancel()
            return done

        return trio.run(scenario)


@pytest.fixture
def circuit(hosts, namespace):
    """A source behind an exit TUN whose filter is not installed yet."""
    exit_host, _ = hosts
    with (
        namespace.call(lambda: TunDevice.open("anon0", MTU)) as source,
        exit_host.namespace.call(lambda: TunDevice.open("exit0", MTU)) as device,
    ):
        namespace.configure(
            [
                f"address add {INNER[0]}/32 dev anon0",
                f"address add {INNER[1]}/128 dev anon0 nodad",
                "route add default dev anon0",
                "route add ::/0 dev anon0",
            ]
        )
        yield Circuit(namespace, source, device)


@pytest.fixture
def installed(hosts, circuit, filter_type):
    exit_host, _ = hosts
    made = exit_host.namespace.call(
        lambda: ExitFilter(circuit.exit_device.name, POOLS, packet_filter=filter_type())
    )
    exit_host.namespace.call(made.install)
    yield made
    exit_host.namespace.call(made.remove)


def curl(address, path="/", *options):
    host = f"[{address}]" if ":" in str(address) else address
    return ["curl", "-s", "-m", "3", *options, f"http://{host}{path}"]


def test_the_destination_sees_the_exits_address(hosts, circuit, installed, web):
    exit_host, bob = hosts
    seen = circuit.run(curl(bob.ipv4.ip), curl(bob.ipv6.ip))
    assert [done.stdout for done in seen] == [str(exit_host.ipv4.ip), str(exit_host.ipv6.ip)]


def test_what_comes_back_fits_the_circuit(hosts, circuit, installed, web, tmp_path):
    _, bob = hosts
    size = ("-o", "/dev/null", "-w", "%{size_download}")
    with bob.capture(tmp_path / "bob.pcap") as capture:
        done = circuit.run(curl(bob.ipv4.ip, "/large", *size), curl(bob.ipv6.ip, "/large", *size))
    assert [each.stdout for each in done] == ["2000000", "2000000"]
    answers = [p for p in capture.packets() if p.protocol == TCP and p.source_port == 80]
    assert {packet.version for packet in answers} == {4, 6}
    assert max(packet.length for packet in answers) == MTU


def test_the_exits_own_services_and_other_inner_addresses_are_out_of_reach(
    hosts, circuit, installed, web, tmp_path
):
    exit_host, bob = hosts
    start_nginx(exit_host.namespace, tmp_path / "own")
    own = [exit_host.ipv4.ip, exit_host.ipv6.ip, *(exit_gateway(pool) for pool in POOLS)]
    others = ["100.64.9.9", "fd99::99"]
    forbidden = [*own, *others]
    assert all(exit_host.namespace.run(curl(address)).stdout for address in own)
    done = circuit.run(
        *(curl(address, "/", "-m", "0.5") for address in forbidden),
        curl(bob.ipv4.ip),
        curl(bob.ipv6.ip),
    )
    assert [each.stdout for each in done[:-2]] == [""] * len(forbidden)
    assert all(each.stdout for each in done[-2:])


def test_no_host_outside_can_begin_a_connection_to_an_inner_address(
    hosts, circuit, installed, exchange, tmp_path
):
    exit_host, bob = hosts
    for inner, exits in zip(INNER, (exit_host.ipv4.ip, exit_host.ipv6.ip), strict=True):
        exit_host.core.run(["ip", "route", "add", inner, "via", str(exits)])

    def send():
        for inner in INNER:
            family = socket.AF_INET6 if ":" in inner else socket.AF_INET
            with socket.socket(family, socket.SOCK_DGRAM) as new:
                new.sendto(b"unasked", (inner, 7000))

    with exit_host.capture(tmp_path / "exit.pcap") as capture:
        bob.namespace.call(send)
        exchange(bob, exit_host)
    probes = [p for p in capture.packets() if p.destination_port == 7000]
    assert {packet.destination for packet in probes} == set(INNER)

    async def nothing_came():
        with trio.move_on_after(0.2):
            return await circuit.exit_device.read_batch()
        return []

    assert trio.run(nothing_came) == []


def test_spoofed_sources_do_not_leave(hosts, circuit, installed, exchange, tmp_path):
    exit_host, bob = hosts
    spoofed = [
        bytes(IP(src="198.51.100.5", dst=str(bob.ipv4.ip)) / inet.UDP(dport=1) / b"spoofed"),
        bytes(IPv6(src="2001:db8:5::5", dst=str(bob.ipv6.ip)) / inet.UDP(dport=1) / b"spoofed"),
    ]
    honest = [
        bytes(IP(src=INNER[0], dst=str(bob.ipv4.ip)) / inet.UDP(dport=2) / b"honest"),
        bytes(IPv6(src=INNER[1], dst=str(bob.ipv6.ip)) / inet.UDP(dport=2) / b"honest"),
    ]
    with bob.capture(tmp_path / "bob.pcap") as capture:
        circuit.exit_device.write_batch([*spoofed, *honest])
        exchange(exit_host, bob)
    arrived = [p for p in capture.packets() if p.protocol == UDP and p.destination_port < 3]
    assert [packet.destination_port for packet in arrived] == [2, 2]
    assert [p.source for p in arrived] == [str(exit_host.ipv4.ip), str(exit_host.ipv6.ip)]


def test_another_programs_translation_leads_circuits_nowhere(
    hosts, circuit, installed, exchange, tmp_path
):
    exit_host, bob = hosts
    exit_host.namespace.run(["nft", REDIRECTION.format(four=bob.ipv4.ip, six=bob.ipv6.ip)])
    redirected = [
        bytes(IP(src=INNER[0], dst="203.0.114.9") / inet.UDP(sport=5, dport=1) / b"x"),
        bytes(IPv6(src=INNER[1], dst="2a00::9") / inet.UDP(sport=5, dport=1) / b"x"),
    ]
    direct = [
        bytes(IP(src=INNER[0], dst=str(bob.ipv4.ip)) / inet.UDP(sport=5, dport=2) / b"x"),
        bytes(IPv6(src=INNER[1], dst=str(bob.ipv6.ip)) / inet.UDP(sport=5, dport=2) / b"x"),
    ]
    with bob.capture(tmp_path / "bob.pcap") as capture:
        circuit.exit_device.write_batch([*redirected, *direct])
        exchange(exit_host, bob)
    arrived = [p for p in capture.packets() if p.protocol == UDP and p.destination_port < 3]
    assert [packet.destination_port for packet in arrived] == [2, 2]


def test_a_destination_that_the_exits_user_protects_looks_the_same_to_others(
    hosts, circuit, installed, web
):
    exit_host, bob = hosts

    def protect():
        with KillSwitch() as kill_switch:
            kill_switch.protect(ipaddress.ip_network(bob.ipv4.ip))
            kill_switch.protect(ipaddress.ip_network(bob.ipv6.ip))

    exit_host.namespace.call(protect)
    # The exit's own programs are held back, the circuits of others are not.
    assert exit_host.namespace.run(curl(bob.ipv4.ip, "/", "-m", "1"), check=False).stdout == ""
    seen = circuit.run(curl(bob.ipv4.ip), curl(bob.ipv6.ip))
    assert [done.stdout for done in seen] == [str(exit_host.ipv4.ip), str(exit_host.ipv6.ip)]


def test_errors_come_from_the_exits_inner_address_alone(hosts, circuit, installed):
    """A packet whose hop limit ends at the exit is answered from the pool's first address."""
    _, bob = hosts

    async def expire():
        packet = IP(src=INNER[0], dst=str(bob.ipv4.ip), ttl=1) / inet.UDP(dport=3) / b"x"
        circuit.exit_device.write_batch([bytes(packet)])
        with trio.fail_after(3):
            return await circuit.exit_device.read_batch()

    (answer,) = trio.run(expire)
    assert IP(answer).src == str(exit_gateway(POOLS[0]))
    assert IP(answer)[ICMP].type == 11


def test_the_connections_of_a_closed_circuit_are_forgotten(hosts, circuit, installed, web):
    exit_host, bob = hosts
    others = "100.64.7.7"
    circuit.run(curl(bob.ipv4.ip), curl(bob.ipv6.ip))
    circuit.exit_device.write_batch(
        [bytes(IP(src=others, dst=str(bob.ipv4.ip)) / inet.UDP(dport=2) / b"x")]
    )
    forgotten = [
        exit_host.namespace.call(lambda a=a: forget_connections(ipaddress.ip_address(a).packed))
        for a in (*INNER, *INNER, others, others)
    ]
    assert forgotten == [1, 1, 0, 0, 1, 0]


def test_everything_is_restored(hosts, circuit, filter_type):
    exit_host, _ = hosts
    before = kernel_state(exit_host.namespace)

    def install_and_remove():
        with ExitFilter(circuit.exit_device.name, POOLS, packet_filter=filter_type()):
            return kernel_state(exit_host.namespace)

    during = exit_host.namespace.call(install_and_remove)
    assert during != before
    assert kernel_state(exit_host.namespace) == before


def test_a_second_process_restores_what_a_killed_exit_changed(hosts, script, filter_type):
    exit_host, _ = hosts
    before = kernel_state(exit_host.namespace)
    module = filter_type.__module__.rsplit(".", 1)[1]
    killed = script(exit_host.namespace, EXIT.format(module=module, name=filter_type.__name__))
    assert killed.said == "ready"
    killed.kill()
    assert kernel_state(exit_host.namespace) != before

    def take_over():
        with (
            TunDevice.open("exit%d", MTU) as device,
            ExitFilter(device.name, POOLS, packet_filter=filter_type()),
        ):
            pass

    exit_host.namespace.call(take_over)
    assert kernel_state(exit_host.namespace) == before


SETTINGS = (
    "net.ipv4.conf.eth0.forwarding", "net.ipv4.conf.eth0.src_valid_mark", "net.ipv4.ip_forward",
    "net.ipv6.conf.all.forwarding", "net.ipv6.conf.eth0.forwarding",
    "net.ipv6.conf.eth0.accept_ra",
)  # fmt: skip


def kernel_state(namespace):
    settings = namespace.run(["sysctl", *SETTINGS]).stdout
    shown = [
        namespace.run(command.split()).stdout
        for command in ("nft list ruleset", "iptables-legacy-save", "ip6tables-legacy-save",
                        "ip route show table all", "ip -6 route show table all")
    ]  # fmt: skip
    lines = [line for text in shown for line in text.splitlines()]
    lines = [line for line in lines if " dev eth0" not in line and " dev exit0" not in line]
    kept = [line for line in lines if line.startswith(("-A", ":AO")) or line[:1] not in "#:*C"]
    return [settings, *kept]


def test_two_exits_in_one_namespace_are_refused(namespace):
    def inside():
        with TunDevice.open("exit%d", MTU) as device:
            filters = [ExitFilter(device.name, POOLS, outward=("lo",)) for _ in range(2)]
            with filters[0], pytest.raises(BackendError, match=r"another node .* owns exit"):
                filters[1].install()

    namespace.call(inside)


def test_an_exit_without_a_way_out_stands_and_forwards_nothing(namespace):
    def inside():
        with TunDevice.open("exit%d", MTU) as device, ExitFilter(device.name, POOLS) as made:
            return made.passed(device.write_batch), [p.kind for p in exit_problems(POOLS)]

    assert namespace.call(inside) == (frozenset(), ["no_default_route"] * 2)
