import ipaddress
import json
import tomllib
from pathlib import Path

import pytest

from overlay.addresses import Endpoint
from overlay.apm.settings import ApmSettings
from overlay.config import (
    Configuration,
    ExitSettings,
    NetworkSettings,
    RoleSettings,
    commented_configuration,
    load_configuration,
    parse_configuration,
)
from overlay.config.catalogue import setting_tables
from overlay.errors import ConfigurationError
from overlay.exit_policy import MAX_RULES, ExitPolicy
from overlay.hop_limit import MAX_HOPS
from overlay.settings.page import refreshed
from overlay.tfc.pad import PadSettings

FILE = Path("/etc/overlay/overlay.toml")


def parse(text):
    return parse_configuration(text, FILE)


def test_empty_file_is_the_default_configuration():
    configuration = parse("")
    assert configuration.network.listen == (Endpoint("0.0.0.0", 4500), Endpoint("::", 4500))
    assert configuration.roles == RoleSettings(relay=True, exit=False)
    assert configuration.selection.hops == 3
    assert configuration.ipsec.esp_suite == 3
    assert configuration.node.state_dir == Path("/etc/overlay")
    assert configuration.node.key_file == Path("/etc/overlay/identity.key")
    assert configuration.network == Configuration().network


def test_every_kind_of_setting_is_read():
    configuration = parse(
        """
        [node]
        state_dir = "/var/lib/o"
        control_socket = "/run/o/c.sock"
        [network]
        network_id = "lab-1"
        listen = ["127.0.0.1:4500", "[::1]:4501"]
        bootstrap = ["127.0.0.2:4500"]
        allow_private_endpoints = true
        bandwidth_kbit = 500
        [roles]
        exit = true
        [exit]
        policy = ["reject *:25", "accept 203.0.113.0/24:80-443"]
        allow_forbidden = ["192.168.7.0/24"]
        inner_ipv4 = "10.9.0.0/16"
        [selection]
        hops = 5
        [tfc]
        strategy = "pad"
        [tfc.pad]
        dummy_rate_pps = 2
        [ipsec]
        backend = "userspace"
        esp_suite = "chacha20-poly1305"
        [apm]
        lifetime_s = 600.0
        """
    )
    assert configuration.node.control_socket == Path("/run/o/c.sock")
    assert configuration.network.listen == (Endpoint("127.0.0.1", 4500), Endpoint("::1", 4501))
    assert configuration.network.bandwidth_kbit == 500
    assert len(configuration.exit.policy) == 3
    policy = configuration.exit_policy()
    assert policy.permits(ipaddress.ip_address("203.0.113.9"), 443)
    assert not policy.permits(ipaddress.ip_address("203.0.113.9"), 25)
    assert configuration.exit.inner_ipv4 == ipaddress.IPv4Network("10.9.0.0/16")
    assert configuration.ipsec.esp_suite == 4
    assert configuration.apm.lifetime_s == 600.0
    assert configuration.plugin_settings("overlay.tfc", "pad") == PadSettings(dummy_rate_pps=2)


def test_documentation_addresses_are_open_to_circuits_in_a_laboratory_alone():
    bob = ipaddress.ip_address("203.0.113.9")
    laboratory = "[network]\nallow_private_endpoints = true\n"
    exits = "[roles]\nexit = true\n"
    assert parse(exits + laboratory).exit_policy().permits(bob, 443)
    assert not parse(exits).exit_policy().permits(bob, 443)
    opened = parse(exits + '[exit]\nallow_forbidden = ["203.0.113.0/24"]').exit_policy()
    assert opened.permits(bob, 443)
    assert not parse(exits + laboratory).exit_policy().permits(ipaddress.ip_address("10.0.0.1"))
    assert parse(laboratory).exit_policy() is None


def test_documentation_addresses_take_no_room_from_the_rules():
    rules = ", ".join(f'"accept 203.0.114.{i}:80"' for i in range(MAX_RULES))
    laboratory = "[network]\nallow_private_endpoints = true\n[roles]\nexit = true\n"
    policy = parse(f"{laboratory}[exit]\npolicy = [{rules}]").exit_policy()
    assert ExitPolicy.decode(policy.encode()) == policy


def test_permanent_paths_are_addresses_and_prefixes_of_both_versions():
    paths = parse('[paths]\npermanent = ["203.0.113.10", "2001:db8::/32"]').paths
    assert paths.permanent == (
        ipaddress.ip_network("203.0.113.10/32"),
        ipaddress.ip_network("2001:db8::/32"),
    )
    assert (paths.remember, paths.both_versions) == (True, False)


def test_plug_in_that_the_file_does_not_mention_gets_its_defaults():
    assert parse("").plugin_settings("overlay.tfc", "pad") == PadSettings()


def test_what_blocks_share_is_set_in_one_place():
    configuration = parse(
        '[network]\nallow_private_endpoints = true\n[ipsec]\nesp_suite = "aes-128-gcm"'
    )
    assert configuration.apm == ApmSettings(esp_suite=1, allow_private_endpoints=True)
    assert configuration.link.allow_private_endpoints
    assert configuration.dht.allow_private_endpoints
    with pytest.raises(ConfigurationError, match=r"\[apm\] esp_suite follows \[ipsec\] esp_suite"):
        parse("[apm]\nesp_suite = 1")


MISTAKES = {
    "[paths]\npermanent = 3": r"\[paths\] permanent must be a list of destinations",
    '[paths]\npermanent = ["a.example"]': r"has 'a.example', which is a host name",
    '[paths]\npermanent = ["10.0.0.1/8"]': r"write 10.0.0.0/8, or only the address",
    '[paths]\npermanent = ["203.0.113.1:80"]': r"which names a port, .* write 203.0.113.1",
    '[paths]\npermanent = ["fe80::1%eth0"]': r"has a zone; write the address without it",
    '[paths]\npermanent = ["0.0.0.0/0"]': r"contains all of 0.0.0.0/8",
    '[paths]\npermanent = ["fd6d:6978::1"]': r"which is a node of the overlay",
    '[paths]\npermanent = ["100.64.0.1"]': r"overlaps the inner addresses 100.64.0.0/10",
    '[paths]\npermanent = ["1.2.3.4", "1.2.3.4/32"]': r"names a destination twice",
    "[paths]\nremember = 1": r"\[paths\] remember must be true or false",
    '[paths]\nboth_versions = "yes"': r"both_versions must be true or false",
    "[netwrok]": r"there is no section \[netwrok\]; did you mean \[network\]\?",
    "[network]\nreachability_test_s = 1": r"must be 0 for no tests, or a time from 5 to .*not 1",
    "[colours]": r"there is no section \[colours\]; known: \[node\], \[network\]",
    "network = 3": r"network must be a section of its own; write \[network\]",
    "[[network]]": r"network must be a section of its own",
    '[network]\nlissten = ["1.2.3.4:5"]': r"no \[network\] setting lissten; did you mean listen\?",
    "[network]\nqqq = 1": r"no \[network\] setting qqq; known: network_id, listen",
    "[network]\nlisten = 4500": r"\[network\] listen must be a list of endpoints",
    "[network]\nlisten = [4500]": r"\[network\] listen must be a list of endpoints",
    "[network]\nlisten = []": r"\[network\] listen must name 1 to 64 endpoints, not 0",
    '[network]\nlisten = ["0.0.0.0"]': r'has "0.0.0.0", which names no port',
    '[network]\nlisten = ["0.0.0.0:0"]': r"a port lies between 1 and 65535",
    '[network]\nlisten = ["0.0.0.0:65536"]': r"a port lies between 1 and 65535",
    '[network]\nlisten = ["0.0.0.0:123456"]': r"which names no port",
    '[network]\nlisten = ["::1:4500"]': r'write an IPv6 endpoint as "\[2001:db8::1\]:4500"',
    '[network]\nlisten = ["1.2.3.4.5:1"]': r"write a literal IP address and a port",
    '[network]\nlisten = ["[fe80::1%eth0]:1"]': r"write a literal IP address and a port",
    '[network]\nlisten = ["1.2.3.4:5", "1.2.3.4:5"]': r"names an endpoint twice",
    '[network]\nbootstrap = ["n.example.org:4500"]': r'the host name "n.example.org"; write its',
    '[network]\nbootstrap = ["192.168.0.1:4500"]': r"a private address; .*allow_private_endpoints",
    '[network]\nadvertise = ["127.0.0.1:4500"]': r"advertise has .* a loopback address",
    '[network]\nadvertise = ["[::]:4500"]': r"advertise .* stands for all addresses of a host",
    '[network]\nbootstrap = ["192.0.2.1:4500"]': r"a documentation address; .*allow_private",
    '[network]\nbootstrap = ["[fec0::1]:4500"]': r"a site-local address; .*allow_private",
    '[network]\nnetwork_id = ""': r"must be 1 to 32 letters",
    '[network]\nnetwork_id = "a b"': r"must be 1 to 32 letters",
    "[network]\nnetwork_id = 7": r"must be a name in quotes",
    "[network]\nbandwidth_kbit = 0": r"must lie between 1 and 4294967295 kbit/s, not 0",
    "[network]\nbandwidth_kbit = true": r"must be a whole number",
    "[network]\nbandwidth_kbit = 1.5": r"must be a whole number",
    "[roles]\nexit = 1": r"\[roles\] exit must be true or false, not 1",
    '[roles]\nexit = "yes"': r"must be true or false",
    '[exit]\npolicy = ["accept everything"]': r"\[exit\] policy is wrong: the exit rule",
    '[exit]\npolicy = "accept *:*"': r"must be a list of rules",
    "[roles]\nexit = true\n[exit]\npolicy = []": r"must hold at least one rule",
    '[network]\nallow_private_endpoints = true\nbootstrap = ["10.2.0.2:4500"]\n'
    "[roles]\nexit = true\n"
    '[exit]\ninner_ipv4 = "10.0.0.0/8"': r"contains the endpoint .10.2.0.2:4500.*write another",
    '[exit]\nallow_forbidden = ["8.8.8.0/24"]': r"is in no forbidden range",
    '[exit]\nallow_forbidden = ["192.168.7.1/24"]': r"is no prefix",
    '[exit]\ninner_ipv4 = "fd00::/64"': r"must be an IPv4 prefix, as ",
    '[exit]\ninner_ipv4 = "10.0.0.0/30"': r"must be a prefix from /8 to /29",
    '[exit]\ninner_ipv4 = "10.0.0.0/7"': r"must be a prefix from /8 to /29",
    '[exit]\ninner_ipv4 = "8.8.0.0/16"': r"must lie in 10.0.0.0/8, .* not the public",
    '[exit]\ninner_ipv4 = "127.0.0.0/24"': r"must lie in 10.0.0.0/8, .* not the loopback",
    '[exit]\ninner_ipv4 = "169.254.0.0/16"': r"must lie in 10.0.0.0/8, .* not the link-local",
    '[exit]\ninner_ipv4 = "172.0.0.0/8"': r"must lie in 10.0.0.0/8, .* not the public",
    '[exit]\ninner_ipv4 = "192.0.2.0/24"': r"must lie in 10.0.0.0/8, .* not the documentation",
    '[exit]\ninner_ipv4 = "198.18.0.0/16"': r"must lie in 10.0.0.0/8, .* not the benchmarking",
    '[exit]\ninner_ipv4 = "224.0.0.0/8"': r"must lie in 10.0.0.0/8, .* not the multicast",
    '[exit]\ninner_ipv4 = "240.0.0.0/8"': r"must lie in 10.0.0.0/8, .* not the reserved",
    '[exit]\ninner_ipv4 = "10.99.0.0/16"': None,
    '[exit]\ninner_ipv4 = "172.16.0.0/12"': None,
    '[exit]\ninner_ipv4 = "192.168.77.0/24"': None,
    '[exit]\ninner_ipv4 = "100.127.0.0/16"': None,
    '[exit]\ninner_ipv6 = "10.0.0.0/8"': r"must be an IPv6 prefix",
    '[exit]\ninner_ipv6 = "2001:db8::/64"': r"must lie in fc00::/7, .* not the documentation",
    '[exit]\ninner_ipv6 = "fe80::/64"': r"must lie in fc00::/7, .* not the link-local",
    '[exit]\ninner_ipv6 = "fd63:6972::/48"': r"must lie apart from the overlay's own prefix",
    '[exit]\ninner_ipv6 = "fd00::/16"': None,
    '[selection]\nstrategy = "unifrom"': r"\[selection\] strategy: .*did you mean 'uniform'\?",
    "[selection]\nhops = 6": rf"must lie between 1 and {MAX_HOPS}, not 6",
    '[tfc]\nstrategy = "loud"': r"\[tfc\] strategy: there is no traffic flow .* named 'loud'",
    "[tfc.padd]\nx = 1": r"there is no section \[tfc.padd\]; did you mean \[tfc.pad\]\?",
    "[tfc.pad]\ndummy_rate = 1": r"no \[tfc.pad\] setting dummy_rate; did you mean dummy_rate_pps",
    "[tfc.pad]\ndummy_rate_pps = -1": r"\[tfc.pad\] dummy_rate_pps must lie between",
    "[tfc.pad]\ndummy_rate_pps = nan": r"dummy_rate_pps must lie between 0 and 1000 packets",
    '[tfc.pad]\ndummy_rate_pps = "1"': r"dummy_rate_pps must be a number of packets per second",
    '[forwarding]\nrules = "none"': r"rules: there is no set of forwarding rules named",
    '[ipsec]\nbackend = "kernel"': r"did you mean 'xfrm'\? .* auto, userspace, xfrm",
    '[ipsec]\nesp_suite = "aes"': r'has no ESP suite "aes"; write one of aes-128-gcm',
    '[ipsec]\nlink_suite = "3des-cbc-sha1"': r"has no ESP suite",
    "[apm]\nlifetime = 3": r"no \[apm\] setting lifetime; did you mean lifetime_s\?",
    "[apm]\nlifetime_s = 0": r"\[apm\] lifetime_s must lie between 0.001 and",
    "[apm]\nlifetime_s = inf": r"must lie between .* seconds, not inf",
    "[link]\nmax_links = 1.5": r"max_links must be a whole number from 1 to 1000000, not 1.5",
    "[dht]\nk = 0": r"\[dht\] k must lie between",
    "[node]\nstate_dir = 3": r"\[node\] state_dir must be a path in quotes",
    '[node]\nstate_dir = ""': r"must be a path that is not empty",
    '[node]\nstate_dir = "~nobody-has-this-name/x"': r"names a home directory that is not known",
    f'[node]\ncontrol_socket = "{"x" * 200}"': r"at most 107; write a shorter one",
    'listen = ["127.0.0.1:1"]': r"listen is outside of a section; write it below .*\[network\]",
    "bootstrap = []\n[network]": r"bootstrap is outside of a section",
    "max_links = 3": r"max_links is outside of a section; .* \[link\]",
    "[node]\nlisten = []": r"no \[node\] setting listen; it belongs below \[network\]",
    "[link]\nlifetime_s = 3": r"no \[link\] setting lifetime_s; it belongs below \[apm\]",
    '[network]\nbootstrap = ["0.0.0.0:1"]': r"bootstrap has .*, which stands for all addresses",
    '[network]\nbootstrap = ["255.255.255.255:1"]\nallow_private_endpoints = true': r"of one host",
    '[network]\nadvertise = ["[ff02::1]:1"]\nallow_private_endpoints = true': r"of one host",
    '[apm]\nsetup_timeout_s = "15x"': r'setup_timeout_s must be a number of seconds, .*, not "15x"',
    '[apm]\nsetup_timeout_s = "-15s"': r"setup_timeout_s must lie between",
    "[apm]\nsetup_timeout_s = true": r"setup_timeout_s must be a number of seconds",
    '[link]\nrekey_after_bytes = "1 GB"': r"rekey_after_bytes must be a whole number of bytes",
    "[network\nlisten": r"is not valid TOML: .*line 1.*; correct that place.$",
    "a = [" + "[" * 5000: r"is not valid TOML: it is nested too deeply",
    "[dht]\nk = " + "9" * 5000: r"is not valid TOML: exceeds the limit .* correct that place",
    "[dht]\nk = 2026-13-45": r"is not valid TOML: .*line 2.*; correct that place",
}


@pytest.mark.parametrize("text", [text for text, why in MISTAKES.items() if why is not None])
def test_mistake_is_one_sentence_that_names_its_place(text):
    with pytest.raises(ConfigurationError, match=MISTAKES[text]) as caught:
        parse(text)
    sentence = str(caught.value)
    assert sentence.startswith(str(FILE))
    assert sentence.endswith((".", "?"))
    assert not sentence.endswith("..")
    assert "\n" not in sentence
    assert len(sentence) < 400


@pytest.mark.slow
def test_setting_of_seconds_may_be_a_time_with_its_unit():
    assert parse('[apm]\nsetup_timeout_s = "20s"').apm.setup_timeout_s == 20
    assert parse('[dht]\nrefresh_interval_s = "30m"').dht.refresh_interval_s == 1800


@pytest.mark.parametrize("start", ["", "\ufeff"])
def test_file_saved_on_windows_is_read(tmp_path, start):
    file = tmp_path / "overlay.toml"
    text = start + '[network]\n# a comment\nlisten = [\n"1.2.3.4:5"]\nnetwork_id = "lab"\n'
    file.write_bytes(text.replace("\n", "\r\n").encode())
    assert load_configuration(file).network.network_id == "lab"


@pytest.mark.parametrize("encoding", ["utf-16-le", "utf-16-be"])
def test_file_in_utf_16_is_named(tmp_path, encoding):
    file = tmp_path / "overlay.toml"
    file.write_bytes("\ufeff[network]\n".encode(encoding))
    with pytest.raises(ConfigurationError, match=r"is UTF-16, .*; save it as UTF-8"):
        load_configuration(file)


def test_pool_beside_the_overlays_own_prefixes_is_accepted():
    assert parse('[exit]\ninner_ipv6 = "fd00::/16"').exit.inner_ipv6.prefixlen == 16


def test_exit_policy_over_its_limit_is_refused():
    rules = ", ".join(f'"accept 203.0.113.{i}:80"' for i in range(MAX_RULES + 1))
    with pytest.raises(ConfigurationError, match=f"policy has {MAX_RULES + 1} rules and must fit"):
        parse(f"[exit]\npolicy = [{rules}]")
    opened = json.dumps([f"10.0.{i}.0/24" for i in range(MAX_RULES + 1)])
    with pytest.raises(ConfigurationError, match=r"\[exit\] allow_forbidden has 17 prefixes and"):
        parse(f"[exit]\nallow_forbidden = {opened}")
    fewer = json.dumps([f"10.0.{i}.0/24" for i in range(MAX_RULES)])
    both = f'policy = ["accept 203.0.113.0/24:80"]\nallow_forbidden = {fewer}'
    with pytest.raises(ConfigurationError, match="policy has 1 rule, allow_forbidden has 16 prefi"):
        parse(f"[exit]\n{both}")


def test_file_that_cannot_be_read_is_named(tmp_path):
    with pytest.raises(ConfigurationError, match='write one with "overlay init"'):
        load_configuration(tmp_path / "overlay.toml")
    with pytest.raises(ConfigurationError, match="cannot be read"):
        load_configuration(tmp_path)
    (tmp_path / "latin1.toml").write_bytes(b"[node]\n# \xe9\n")
    with pytest.raises(ConfigurationError, match="not UTF-8 at line 2"):
        load_configuration(tmp_path / "latin1.toml")
    (tmp_path / "large.toml").write_bytes(b"#" * 1_000_001)
    with pytest.raises(ConfigurationError, match="larger than 1 MB"):
        load_configuration(tmp_path / "large.toml")


def test_advertised_endpoints_are_those_that_others_can_use():
    wildcard, private = Endpoint("0.0.0.0", 4500), Endpoint("192.168.0.1", 4500)
    public = Endpoint("203.0.114.5", 4500)
    assert NetworkSettings(listen=(wildcard, private, public)).advertised == (public,)
    lab = NetworkSettings(listen=(wildcard, private), allow_private_endpoints=True)
    assert lab.advertised == (private,)
    assert NetworkSettings(advertise=(public,)).advertised == (public,)


def test_section_built_by_a_program_obeys_the_same_rules():
    with pytest.raises(ValueError, match="a loopback address"):
        NetworkSettings(bootstrap=(Endpoint("127.0.0.1", 1),))
    with pytest.raises(ValueError, match="at least one rule"):
        Configuration(roles=RoleSettings(exit=True), exit=ExitSettings(policy=()))


def test_commented_file_is_the_default_configuration():
    assert parse(commented_configuration({})) == parse(
        "[selection.uniform]\n[tfc.pad]\n[forwarding.standard]"
    )


def test_commented_file_shows_every_setting_at_its_default():
    commented = commented_configuration({})
    shown = tomllib.loads("\n".join(line.removeprefix("# ") for line in commented.splitlines()[3:]))
    uncommented = parse_configuration(
        "\n".join(line.removeprefix("# ") for line in commented.splitlines()[3:]), FILE
    )
    assert uncommented == parse(commented)
    assert shown["network"]["listen"] == ["0.0.0.0:4500", "[::]:4500"]
    assert len(shown["apm"]) + 2 == len(ApmSettings.__dataclass_fields__)


def test_commented_file_carries_what_was_chosen_and_names_the_default():
    text = commented_configuration({("network", "listen"): ["203.0.113.5:4500"]})
    assert parse(text).network.listen == (Endpoint("203.0.113.5", 4500),)
    assert 'Default: ["0.0.0.0:4500", "[::]:4500"].' in text.replace("\n## ", " ")
    with pytest.raises(KeyError):
        commented_configuration({("network", "no_such_setting"): 1})


def test_tables_of_the_documentation_are_those_of_the_declarations():
    page = (Path(__file__).parents[2] / "docs" / "configuration.md").read_text()
    assert page == refreshed(page, setting_tables()), "make pages"


def test_plug_in_of_the_documentation_declares_settings():
    page = (Path(__file__).parents[2] / "docs" / "configuration.md").read_text()
    program = page.partition("```python\n")[2].partition("```")[0]
    names = {"__name__": __name__}
    exec(program, names)
    assert names["BurstTfc"].settings_type(pause_s="1m").pause_s == 60
