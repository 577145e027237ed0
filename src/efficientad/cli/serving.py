"""The verb `serve`."""

import os
from pathlib import Path
from typing import Any

from efficientad.cli import OK
from efficientad.errors import needs_extra
from efficientad.names import printable


def serve(
    model: Path,
    /,
    *,
    config: Path | None = None,
    data: Path | None = None,
    host: str | None = None,
    port: int | None = None,
    open: bool = False,  # noqa: A002 - as it is called
    new_token: str | None = None,
) -> int:
    """Run an inspection station: a server that keeps every decision.

    Settings come from these options, then from variables such as
    EFFICIENTAD_STATION_PORT, then from the TOML file.

    Args:
        model: Detector file or exported file.
        config: TOML file with all settings, sources, sinks and tokens.
        data: Folder of database and images, on a local disk. None: station.
        host: Address to listen at. None: 127.0.0.1, this computer alone.
        port: Port to listen at. None: 8420.
        open: Let everybody who reaches the station do everything, without a token.
        new_token: Print a new token of this name, for the TOML file, and end.
    """
    from efficientad.inspection.opening import require_model_file

    with needs_extra("serve", "station"):
        from efficientad.station import serve as station
        from efficientad.station.config import read_config
    if new_token is not None:
        for line in station.token_lines(new_token):
            print(printable(line))
        return OK
    require_model_file(model)
    given = {"data": data, "host": host, "port": port, "is_open": open or None}
    flags: dict[str, Any] = {k: v for k, v in given.items() if v is not None}
    station.serve(read_config(config, os.environ, {"model": model, **flags}))
    return OK
