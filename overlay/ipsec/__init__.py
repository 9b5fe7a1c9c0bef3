"""The IPsec engine: SAD, SPD, ESP (RFC 4301, RFC 4303) and its backends."""
