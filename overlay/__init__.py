"""An anonymous overlay at the IP layer: circuits of nested standard IPsec ESP tunnels."""
