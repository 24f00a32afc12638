"""`python -m thimble` is the program `thimble`."""

import sys

from ._program import main

sys.argv[0] = "thimble"
sys.exit(main())
