"""`python -m examples.order_fulfilment`."""

import sys

from examples.order_fulfilment.cli import main

sys.exit(main())
