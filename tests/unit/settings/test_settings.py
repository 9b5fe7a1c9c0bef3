"""Settings are declared once: what a declaration must say, and what is derived from it."""

import argparse
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from overlay.config import Configuration, parse_configuration
from overlay.config.blocks import plugin_settings_type
from overlay.config.render import all_sections
from overlay.config.values import NETWORK_NAME
from overlay.durations import duration_text, parse_duration
from overlay.errors import ConfigurationError
from overlay.settings import (
    FLAG,
    Settings,
    declared,
    follows,
    number,
    own_names,
    read_settings,
    seconds,
    setting,
    some_of,
    whole,
)
from overlay.settings.describe import commented_entry, help_text, option_default, table
from overlay.settings.option import add_option
from overlay.settings.page import refreshed
from overlay.tfc.pad import PadTfc

FILE = Path("/etc/overlay/overlay.toml")
UNITS = {
    "_per_s": " per second",
    "_kbit": "kbit/s",
    "_bytes": "bytes",
    "_pps": "packets per second",
    "_percent": "percent",
    "_s": "seconds",
}


@dataclass(frozen=True, slots=True)
class Toy(Settings):
    """[toy]: three settings."""

    count: int = setting(3, whole(1, 9, "things"), "Number of things. More text.")
    pause_s: float = setting("90s", seconds(1, 100), "Pause between two things.")
    words: tuple[str, ...] = setting(["b"], some_of("a", "b"), "Words | of it.")
    private: bool = follows("network", False, FLAG)

    def check(self):
        if self.count > self.pause_s:
            raise ValueError("count must not exceed pause_s")


EVERY_SETTING = [
    pytest.param(known, id=f"{section}.{name}")
    for section, settings_type in all_sections()
    for name, known in declared(settings_type).items()
]


@pytest.mark.parametrize("known", EVERY_SETTING)
def test_setting_says_its_unit_and_its_meaning(known):
    ending = next((each for each in UNITS if known.name.endswith(each)), None)
    if ending is not None:
        assert UNITS[ending] in known.kind.wanted
    assert known.meaning.endswith(".")
    assert known.meaning[0] == known.meaning[0].upper()
    assert known.kind.parse(known.default) == known.value


@pytest.mark.parametrize("known", EVERY_SETTING)
def test_setting_that_follows_a_section_has_its_default(known):
    if known.section:
        assert known.value == getattr(getattr(Configuration(), known.section), known.name)


def test_values_are_checked_and_converted_wherever_they_come_from():
    assert Toy() == Toy(3, 90, ("b",), False)
    assert Toy(pause_s="1m", words=["b", "a"]) == Toy(pause_s=60.0, words=("a", "b"))
    for wrong, why in (
        ({"count": 10}, "count must lie between 1 and 9 things, not 10"),
        ({"count": "3"}, 'count must be a whole number of things from 1 to 9, not "3"'),
        ({"pause_s": True}, "pause_s must be a number of seconds, or a time such as"),
        ({"pause_s": "30"}, 'pause_s must say its unit: write "30s"'),
        ({"pause_s": 2}, "count must not exceed pause_s"),
        ({"words": "a"}, "words must be a list of some of a, b"),
    ):
        with pytest.raises(ValueError, match=why):
            Toy(**wrong)
        with pytest.raises(ConfigurationError, match=rf"^\[toy\] {why}.*[.?]$"):
            read_settings("toy", Toy, wrong)
    with pytest.raises(ConfigurationError, match=r"no \[toy\] setting cuont; did you mean count\?"):
        read_settings("toy", Toy, {"cuont": 3})


def test_default_out_of_its_range_is_an_error_of_the_program():
    with pytest.raises(ValueError, match="must lie between"):
        setting(10, whole(1, 9), "Too many.")


def test_field_without_a_declaration_is_an_error_of_the_program():
    @dataclass(frozen=True, slots=True)
    class Wrong(Settings):
        count: int = 3

    with pytest.raises(TypeError, match=r"Wrong.count is not declared with setting\(\)"):
        Wrong()


def test_descriptions_are_derived():
    known = declared(Toy)["count"]
    assert own_names(Toy) == ["count", "pause_s", "words"]
    assert commented_entry(known) == (
        "## Number of things. More text. Value: a whole number of things from 1 to 9.\n# count = 3"
    )
    assert "Default: 3.\ncount = 4" in commented_entry(known, 4)
    assert help_text(known, "default: 3") == (
        "number of things (a whole number of things from 1 to 9; default: 3)"
    )
    assert table(Toy, "toy.").splitlines()[2:] == [
        "| `toy.count` | `3` | a whole number of things from 1 to 9 "
        "| Number of things. More text. |",
        '| `toy.pause_s` | `"90s"` | a time from 1 to 100 seconds | Pause between two things. |',
        '| `toy.words` | `["b"]` | a list of some of a, b | Words \\| of it. |',
    ]


def test_words_of_the_command_line_have_the_form_of_the_file():
    assert whole(1, 9).read("3") == 3
    assert number(1, 9).read("1e0") == 1.0
    for kind in (whole(1, 9), number(1, 9)):
        with pytest.raises(ValueError, match='not "three"'):
            kind.parse(kind.read("three"))


@dataclass(frozen=True, slots=True)
class OtherSettings(Settings):
    """Settings of a plug-in of another package."""

    rate_pps: float = setting(1, number(0, 5, "packets per second"), "Mean rate.")
    network_id: str = follows("network", "overlay", NETWORK_NAME)


def test_plug_in_of_another_package_declares_its_settings_in_the_same_way(monkeypatch):
    monkeypatch.setattr(PadTfc, "settings_type", OtherSettings)
    text = '[network]\nnetwork_id = "lab"\n'
    for more, rate_pps in (("", 1), ("[tfc.pad]\nrate_pps = 2", 2)):
        parsed = parse_configuration(text + more, FILE)
        assert parsed.plugin_settings("overlay.tfc", "pad") == OtherSettings(rate_pps, "lab")
    with pytest.raises(ConfigurationError, match=r"\[tfc.pad\] network_id follows \[network\]"):
        parse_configuration('[tfc.pad]\nnetwork_id = "x"', FILE)


def test_plug_in_that_declares_its_settings_in_another_way_is_named(monkeypatch):
    @dataclass(frozen=True)
    class Other:
        count: int = 3

    @dataclass(frozen=True)
    class Half(Settings):
        count: int = field(default=3)

    for wrong in (Other, Half, Settings, 3):
        monkeypatch.setattr(PadTfc, "settings_type", wrong)
        with pytest.raises(ConfigurationError, match=r"'pad' of overlay.tfc does not declare"):
            plugin_settings_type("overlay.tfc", "pad")


PAGE = "# Title\n\n<!-- settings: toy -->\nold\n<!-- end of settings -->\n\nText.\n"


def test_tables_of_a_document_are_replaced_and_its_text_is_kept():
    page = refreshed(PAGE, {"toy": "new\nrow"})
    assert page == PAGE.replace("old", "new\nrow")
    assert refreshed(page, {"toy": "new\nrow"}) == page


@pytest.mark.parametrize("tables", [{}, {"toy": "", "other": ""}, {"other": ""}])
def test_document_with_other_tables_than_the_code_is_refused(tables):
    with pytest.raises(ValueError, match="different tables"):
        refreshed(PAGE, tables)


def test_options_take_what_the_settings_take(capsys):
    parser = argparse.ArgumentParser()
    for name, known in declared(Toy).items():
        add_option(parser, f"--{name}", known, remark="default: as configured", check=True)
    given = parser.parse_args(["--count=4", "--pause_s", "1m", "--words=b", "--words=a"])
    assert vars(given) == {"count": 4, "pause_s": 60.0, "words": ["b", "a"], "private": None}
    assert Toy(**{name: value for name, value in vars(given).items() if value is not None})
    with pytest.raises(SystemExit):
        parser.parse_args(["--count=10"])
    assert "argument --count: must lie between 1 and 9 things, not 10" in capsys.readouterr().err


@pytest.mark.parametrize("known", EVERY_SETTING)
def test_the_default_in_the_help_of_an_option_is_taken_by_the_option(known):
    if isinstance(known.value, float) and isinstance(known.default, float):
        word = option_default(known)
        assert known.kind.parse(known.kind.read(word)) == known.value


@pytest.mark.parametrize(
    ("seconds_", "text"),
    [
        (21_600.0, "6h"),
        (5400.0, "90m"),
        (90.0, "90s"),
        (86_400.0, "1d"),
        (0.5, "500ms"),
        (1.5, "1.5s"),
        (0.0, "0s"),
    ],
)
def test_times_have_the_largest_unit_that_makes_them_whole(seconds_, text):
    assert duration_text(seconds_) == text
    assert parse_duration(text) == seconds_
