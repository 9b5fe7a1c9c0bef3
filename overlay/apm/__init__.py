"""Anonymous Paths Management: onion signalling, keys, SPIs and circuits (paper, 2.4 and 3)."""
