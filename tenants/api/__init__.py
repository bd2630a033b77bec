"""The REST door of people, organizations and credentials."""
