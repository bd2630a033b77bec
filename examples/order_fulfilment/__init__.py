"""Order fulfilment: a process, the workers that serve it, and the shop that places orders.

It speaks to any Zeebe engine through the environment variables of an ordinary client
(see `connection`), and needs nothing but pyzeebe.
"""
