"""A station with the fake model, as a process: python -m tests.station_server TOML."""

import os
import sys
from pathlib import Path

from tests.station_models import dangerous

from efficientad.station.config import read_config
from efficientad.station.serve import serve

if __name__ == "__main__":
    serve(read_config(Path(sys.argv[1]), os.environ, {}), dangerous)
