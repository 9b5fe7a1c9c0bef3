"""Network namespaces, captures and the demonstration on real packets."""
