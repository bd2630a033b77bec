"""What an organization may have: plans and entitlements. Knows nothing of engine clusters."""
