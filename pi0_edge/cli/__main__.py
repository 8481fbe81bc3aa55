"""`python -m pi0_edge.cli`: the command line of this interpreter, whatever PATH says."""

import sys

from pi0_edge.cli.app import main

sys.exit(main())
