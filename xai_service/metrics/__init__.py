"""Prometheus metrics: what is exported (`families`), as which text (`text`), over which HTTP (`http`)."""
