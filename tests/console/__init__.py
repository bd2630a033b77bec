"""The console as people meet it."""
