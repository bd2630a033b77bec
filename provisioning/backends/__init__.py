"""Homes for engine clusters, behind one narrow interface (`base.ClusterBackend`)."""
