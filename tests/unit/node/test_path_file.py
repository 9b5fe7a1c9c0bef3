"""The file of remembered paths keeps destinations blocked whatever happens to it."""

import ipaddress

import pytest

from overlay.config.sections import SelectionSettings
from overlay.node.path_file import PathFile

LATER = '{"version": 2, "paths": [{"destination": "192.0.2.7", "hops": 9, "weight": 1}]}'
CUT = '{"version": 1, "paths": [{"destination": "192.0.2.7/32", "hops": 3, "str'
DESTINATION = ipaddress.ip_network("192.0.2.7")


@pytest.mark.parametrize("content", [LATER, CUT])
def test_a_damaged_file_keeps_its_name_until_a_whole_one_replaces_it(tmp_path, content):
    path = tmp_path / "paths.json"
    path.write_text(content)
    for _ in range(3):  # starts that end before they can write, for example on a full disk
        file = PathFile(path, selection=SelectionSettings("other", 2))
        (terms,) = file.load()
        assert (terms.destination, terms.hops, terms.strategy) == (DESTINATION, 2, "other")
        assert file.damaged == 1
    file.save([terms])
    aside = tmp_path / "paths.json.damaged-1"
    assert sorted(tmp_path.iterdir()) == [path, aside]
    assert aside.read_text() == content
    again = PathFile(path)
    assert again.load() == [terms]
    assert again.damaged == 0
