"""The laptop: sets up and runs the whole product on one machine without services.

Nothing imports this package; it drives the product through the doors that everybody else uses.
`embedded.setup` and what it imports run on a bare Python, before the virtual environment exists.
"""
