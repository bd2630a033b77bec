"""The self-service web console: server-rendered pages over the services, with no models of its own."""
