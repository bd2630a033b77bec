"""What every backend does with a real engine, wherever it runs: what it is asked, how its answers are judged, its
certificate, its backups, and which data a broker may work on.

The way to a broker's management interface is a `Door`: a port of this machine, or the API server's proxy.
"""
