"""Links between neighbouring nodes: Noise IK handshake, link SAs, one UDP port."""
