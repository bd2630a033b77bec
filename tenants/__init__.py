"""Who our customers are: people, organizations, roles, credentials, and who did what."""
