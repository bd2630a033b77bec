"""What a tenant would write: nothing here knows that Flowplane exists."""
