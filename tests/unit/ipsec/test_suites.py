import pytest

from overlay.ipsec.suites import DEFAULT_SUITE, SUITES


@pytest.mark.parametrize(
    ("number", "name", "keymat_bytes", "iv_bytes", "icv_bytes", "alignment"),
    [
        (1, "aes-128-gcm", 20, 8, 16, 4),
        (2, "aes-192-gcm", 28, 8, 16, 4),
        (3, "aes-256-gcm", 36, 8, 16, 4),
        (4, "chacha20-poly1305", 36, 8, 16, 4),
        (5, "aes-128-cbc-sha256", 48, 16, 16, 16),
        (6, "aes-192-cbc-sha256", 56, 16, 16, 16),
        (7, "aes-256-cbc-sha256", 64, 16, 16, 16),
        (8, "aes-128-cbc-sha1", 36, 16, 12, 16),
        (9, "aes-192-cbc-sha1", 44, 16, 12, 16),
        (10, "aes-256-cbc-sha1", 52, 16, 12, 16),
        (11, "3des-cbc-sha1", 44, 8, 12, 8),
    ],
)
def test_numbers_and_sizes_on_the_wire_do_not_change(
    number, name, keymat_bytes, iv_bytes, icv_bytes, alignment
):
    suite = SUITES[number]
    assert (suite.number, suite.name, suite.keymat_bytes) == (number, name, keymat_bytes)
    assert (suite.iv_bytes, suite.icv_bytes, suite.alignment) == (iv_bytes, icv_bytes, alignment)


def test_only_3des_is_an_experiment():
    assert [suite.name for suite in SUITES.values() if suite.experiment] == ["3des-cbc-sha1"]


def test_the_default_is_aes_256_gcm():
    assert SUITES[DEFAULT_SUITE].name == "aes-256-gcm"
