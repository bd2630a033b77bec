"""The REST door to clusters, operations and the catalogue."""
