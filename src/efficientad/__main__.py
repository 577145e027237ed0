"""`python -m efficientad` is the command line."""

import sys

from efficientad.cli import main

sys.exit(main())
