"""Anonymous Paths Management: onion signalling, keys, SPIs, circuits (paper, 2.4 and 3)."""
