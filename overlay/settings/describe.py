"""Describe settings: in a commented file, in tables of documents and in help texts."""

from __future__ import annotations

import json
import re
import textwrap
from collections.abc import Collection, Mapping
from typing import Any

from overlay.durations import duration_text
from overlay.settings.declaration import Setting, TomlValue, declared
from overlay.settings.kinds import FLAG
from overlay.settings.shown import plain_number

__all__ = [
    "comment",
    "commented_entry",
    "default_text",
    "first_sentence",
    "help_text",
    "option_default",
    "table",
    "toml_value",
]


def commented_entry(known: Setting, value: TomlValue | None = None, more: str = "") -> str:
    """Return the lines of a setting in a commented file.

    Args:
        known: the setting.
        value: the value that the file sets; None comments the line out and shows the default.
        more: a sentence that only the caller knows.
    """
    default = toml_value(known.default)
    about = [known.meaning, _range(known), more]
    if value is None:
        line = f"# {known.name} = {default}"
    else:
        line = f"{known.name} = {toml_value(value)}"
        about += [f"Default: {default}."] if value != known.default else []
    return f"{comment(' '.join(filter(None, about)))}\n{line}"


def comment(text: str) -> str:
    """Wrap a text as a comment. "##" distinguishes it from a setting, which has one "#"."""
    plain = re.sub(r":\w+:`~?([^`]*)`", r"\1", text).replace("``", "")
    return textwrap.fill(
        plain[:1].upper() + plain[1:],
        96,
        initial_indent="## ",
        subsequent_indent="## ",
        break_on_hyphens=False,
    )


def table(settings_type: type[Any], prefix: str = "", without: Collection[str] = ()) -> str:
    """Return a table in Markdown with all settings that belong to a dataclass.

    Args:
        settings_type: the dataclass.
        prefix: precedes the names, such as "churn.".
        without: settings to leave out.
    """
    rows = ["| setting | default | values | meaning |", "|---|---|---|---|"]
    for name, known in declared(settings_type).items():
        if known.section or name in without:
            continue
        default = default_text(known)
        shown = default if known.default is None else f"`{default}`"
        cells = (f"`{prefix}{name}`", shown, known.kind.wanted, known.meaning)
        rows.append(f"| {' | '.join(each.replace('|', chr(92) + '|') for each in cells)} |")
    return "\n".join(rows)


def help_text(known: Setting, remark: str) -> str:
    """Return the help of an option: what the setting does, its range, and a remark."""
    about = first_sentence(known.meaning).rstrip(".")
    if about[1:2].islower():
        about = about[:1].lower() + about[1:]
    is_plain = known.kind is FLAG or known.kind.choices or known.kind.repeats
    range_ = "" if is_plain else f"{known.kind.wanted}; "
    # A percent sign begins a conversion in argparse.
    return f"{about} ({range_}{remark})".replace("%", "%%")


def default_text(known: Setting) -> str:
    """Return the default of a setting in TOML, or what its absence means."""
    return known.kind.absent if known.default is None else toml_value(known.default)


def option_default(known: Setting) -> str:
    """Return the default of a setting as an option takes it, such as 6h for 21600.0 seconds."""
    default = known.default
    if isinstance(default, float):
        return duration_text(default) if known.kind.is_time else plain_number(default)
    return default_text(known) if default or not known.kind.repeats else "none"


def first_sentence(text: str) -> str:
    """Return a text up to its first full stop before a space, or the whole text."""
    return re.split(r"(?<=\.)\s", " ".join(text.split()), maxsplit=1)[0]


def toml_value(value: object) -> str:
    """Return a value in TOML. A JSON string is a basic string of TOML 1.0, except for DEL."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
    if isinstance(value, Mapping):
        pairs = (f"{name} = {toml_value(item)}" for name, item in value.items())
        return f"{{{', '.join(pairs)}}}"
    if isinstance(value, list | tuple):
        return f"[{', '.join(toml_value(item) for item in value)}]"
    return repr(value)


def _range(known: Setting) -> str:
    wanted = known.kind.wanted
    return "" if known.kind is FLAG else f"Value: {wanted}."
