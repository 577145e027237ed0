"""`python -m efficientad` is the command line."""

import sys

from efficientad.cli.main import main

sys.exit(main())
