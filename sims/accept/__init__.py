"""The acceptance set: the product's overlay held against theory and published measurements."""
