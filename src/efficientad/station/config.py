"""Settings of a station: flags before environment before one TOML file."""

import re
import tomllib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, is_dataclass
from functools import cached_property
from ipaddress import IPv4Network, IPv6Network, ip_network
from pathlib import Path
from typing import Annotated, Any, Final, Literal, get_args, get_type_hints
from urllib.parse import urlsplit

from efficientad.engines.names import Device, EngineChoice
from efficientad.errors import ConfigError, StorageError
from efficientad.settings import Parallel, Range, check_fields, checked
from efficientad.settings import shown as shown_value
from efficientad.storage import open_regular

Role = Literal["line", "viewer", "operator", "engineer"]
"""Rights of a client; each but `line` has those of the ones before it."""

ENVIRONMENT_PREFIX: Final = "EFFICIENTAD_STATION_"
_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9 ._-]{0,99}")
_SHA256: Final = re.compile(r"[0-9a-f]{64}")
_SECRET: Final = {"password", "sha256"}
_MASKED: Final = r"(?i)(\b(?:[\w-]*(?:password|secret|token|key|sig|-pw)|code)=)[^&\s]*"
_Positive = Annotated[float, Range(1e-3, 1e9)]
_Days = Annotated[float, Range(0.01, 36_500)]


@dataclass(frozen=True, kw_only=True)
class _Checked:
    def __post_init__(self) -> None:
        """Reject settings of another type or range."""
        check_fields(self)


@dataclass(frozen=True, kw_only=True)
class Token(_Checked):
    """A client that may use the station; the token itself is not stored."""

    name: str
    role: Role
    sha256: str
    """SHA-256 of the token, as `efficientad serve --new-token` prints it."""

    def __post_init__(self) -> None:
        """Reject settings of another type, and a hash that no token has."""
        super().__post_init__()
        if not _SHA256.fullmatch(self.sha256):
            raise ConfigError(
                f"the token {self.name} needs its SHA-256, 64 hexadecimal digits in "
                "lower case, got another text; make one with --new-token"
            )


@dataclass(frozen=True, kw_only=True)
class Proxy(_Checked):
    """A proxy that signs people in, and names them in a header."""

    addresses: tuple[str, ...]
    """Addresses or networks from which the header is taken, such as 10.0.0.2."""
    header: str = "X-Forwarded-User"
    """Header that the proxy sets or removes in every request."""
    role: Role = "viewer"
    """Role of everybody who is not named here."""
    operators: tuple[str, ...] = ()
    engineers: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        super().__post_init__()
        try:
            self.networks  # noqa: B018 - it is computed once
        except ValueError as error:
            raise ConfigError(
                f"a proxy needs addresses or networks, {error}; correct it"
            ) from error

    @cached_property
    def networks(self) -> tuple[IPv4Network | IPv6Network, ...]:
        """The addresses of the proxy."""
        return tuple(map(ip_network, self.addresses))

    def role_of(self, name: str) -> Role:
        """Return the role of somebody who is signed in."""
        if name in self.engineers:
            return "engineer"
        return "operator" if name in self.operators else self.role


@dataclass(frozen=True, kw_only=True)
class Folder(_Checked):
    """A folder that is looked at for new images."""

    name: str
    """Text that stands for the source in rows and paths."""
    path: Path
    done: Path | None = None
    """Folder that inspected images move to. None: `done` within the folder."""
    seconds: _Positive = 0.5
    """Time between two looks."""
    stable_seconds: Annotated[float, Range(0, 3600)] = 1.0
    """Time for which a file must have stayed the same."""


@dataclass(frozen=True, kw_only=True)
class Camera(_Checked):
    """A camera or a video whose frames are inspected."""

    name: str
    """Text that stands for the source in rows and paths."""
    address: str = ""
    """Device such as /dev/video0, stream such as rtsp://HOST/PATH, or video file."""
    command: tuple[str, ...] = ()
    """Program, in place of an address, that writes frames as PPM to its output."""
    mode: Literal["free", "interval", "trigger", "every"] = "free"
    """`free`: the newest frame, as soon as there is a place. `interval`: one each
    `seconds`. `trigger`: the first one after a request. `every`: all; the camera waits
    for a trigger of its own."""
    seconds: _Positive = 1.0
    """Time between two frames in the mode `interval`."""
    stall_seconds: _Positive | None = 5.0
    """Time without a frame after which the camera is opened again, at least 30 s before
    its first one. None: it is not opened again."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if bool(self.address) == bool(self.command):
            raise ConfigError(
                f"a camera needs an address or a command, {self.name} has "
                f"{'both' if self.address else 'none'}; give one of them"
            )


@dataclass(frozen=True, kw_only=True)
class Webhook(_Checked):
    """An address that gets each inspection as JSON."""

    name: str
    url: str
    is_private: bool = False
    """Whether the address may be in a private network, or on this computer."""

    def __post_init__(self) -> None:
        """Reject settings of another type, and what is no address of HTTP."""
        super().__post_init__()
        try:
            parts = urlsplit(self.url)
            is_address = parts.scheme in {"http", "https"} and bool(parts.hostname)
            is_address &= parts.port != 0 and bool(re.fullmatch("[!-~]+", self.url))
            (parts.hostname or "").encode("idna")
        except ValueError:  # such as a port that is no number, or an empty label
            is_address = False
        if not is_address:
            raise ConfigError(
                "a webhook needs an address such as https://mes.example/parts, of "
                f"ASCII without spaces, got {self.url}"
            )


@dataclass(frozen=True, kw_only=True)
class Mqtt(_Checked):
    """A broker that gets each inspection."""

    name: str = "mqtt"
    host: str
    port: Annotated[int, Range(1, 65535)] = 1883
    username: str | None = None
    password: str | None = None
    has_tls: bool = False

    def __post_init__(self) -> None:
        """Reject settings of another type or range, and a host without a name."""
        super().__post_init__()
        if not self.host:
            raise ConfigError("a broker needs a host, got none; give name or address")


@dataclass(frozen=True, kw_only=True)
class Retention(_Checked):
    """How long images of normal parts and rows are kept.

    Anomalous, undecided, reviewed and golden parts are always kept.
    """

    normal_days: _Days = 30.0
    row_days: _Days = 3650.0
    normal_gb: _Positive = 50.0


@dataclass(frozen=True, kw_only=True)
class StationConfig(_Checked):
    """Settings of a station."""

    model: Path
    """Model file: .ead, .onnx or .xml."""
    data: Path = Path("station")
    """Folder of database, images and models, on a local disk."""
    database: str | None = None
    """Address such as postgresql+psycopg://USER:PASSWORD@HOST/NAME. None: SQLite in the
    data folder."""
    media: str | None = None
    """Bucket such as s3://NAME/PREFIX for images. None: the data folder."""
    replica: str | None = None
    """Text that stands for this process among those that share a database. None: the
    name of the station."""
    name: str = "station"
    """Text that stands for the station in topics and payloads."""
    host: str = "127.0.0.1"
    port: Annotated[int, Range(0, 65535)] = 8420
    allowed_hosts: tuple[str, ...] = ()
    """Names by which browsers and clients may call the station, beside its own."""
    is_open: bool = False
    """Whether everybody who reaches the station may do everything."""
    device: Device = "auto"
    engine: EngineChoice = "auto"
    n_threads: Parallel | None = None
    latency_budget: _Positive = 2.0
    """Seconds within which an accepted image shall be answered."""
    max_places: Annotated[int, Range(1, 64)] = 64
    prediction_seconds: _Positive = 10.0
    """Time after which a prediction that gives nothing is ended."""
    max_upload_mb: Annotated[int, Range(1, 1024)] = 32
    max_megapixels: Annotated[int, Range(1, 200)] = 64
    upload_seconds: _Positive = 30.0
    """Time within which an image must have arrived."""
    requests_per_second: _Positive = 1000.0
    """Images a second that each token may send, on average."""
    min_free_mb: Annotated[int, Range(1, 10**6)] = 1000
    min_free_share: Annotated[float, Range(0, 0.5)] = 0.05
    review_share: Annotated[float, Range(0, 1)] = 0.005
    """Share of normal images that is queued for review at random."""
    defect_share: Annotated[float, Range(0, 0.4)] = 0.02
    """Share of parts that are expected to be defective, for the drift watch."""
    silent_seconds: _Positive | None = None
    """Time without a part of a source that is an incident. None: it is none."""
    retention: Retention = field(default_factory=Retention)
    tokens: tuple[Token, ...] = ()
    proxy: Proxy | None = None
    folders: tuple[Folder, ...] = ()
    cameras: tuple[Camera, ...] = ()
    webhooks: tuple[Webhook, ...] = ()
    mqtt: Mqtt | None = None

    @property
    def max_pixels(self) -> int:
        """Pixels that an image may have."""
        return self.max_megapixels * 10**6

    @property
    def replica_name(self) -> str:
        """Text that stands for this process and is kept with its inspections."""
        return self.replica or self.name

    @property
    def has_identities(self) -> bool:
        """Whether the station knows who sends a request."""
        return bool(self.tokens) or self.proxy is not None

    @property
    def sinks(self) -> tuple[str, ...]:
        """Names of everything that gets each inspection."""
        broker = () if self.mqtt is None else (self.mqtt.name,)
        return (*(hook.name for hook in self.webhooks), *broker)

    def __post_init__(self) -> None:
        super().__post_init__()
        is_loopback = self.host in {"127.0.0.1", "::1", "localhost"}
        if not (is_loopback or self.has_identities or self.is_open):
            raise ConfigError(
                f"a station that others reach at {self.host} needs tokens, got none; "
                "make one with --new-token, or allow everybody everything with --open"
            )
        sources: tuple[Folder | Camera, ...] = (*self.folders, *self.cameras)
        names = [*self.sinks, *(source.name for source in sources)]
        for name in (self.name, self.replica_name, *names):
            if not _NAME.fullmatch(name):
                raise ConfigError(
                    f"names of station, replica, sources and sinks are of letters, "
                    f"digits, space, dot, dash and underscore, got {name!r}"
                )
        if len(set(names)) < len(names):
            raise ConfigError(
                f"sources and sinks need different names, got {', '.join(names)}"
            )


def read_config(
    path: Path | None, environment: Mapping[str, str], flags: Mapping[str, Any]
) -> StationConfig:
    """Return the settings of a station from its file, the environment and flags.

    Flags go before variables, such as EFFICIENTAD_STATION_PORT, and these before the
    file.

    Raises:
        ConfigError: If a setting is unknown, missing, or of another type or range.
        StorageError: If the file cannot be read.
    """
    table: dict[str, Any] = {}
    if path is not None:
        try:
            with open_regular(path) as file:
                table = tomllib.load(file)
        except OSError as error:
            raise StorageError(
                f"cannot read {path} ({error.strerror}); check the path"
            ) from error
        except (ValueError, RecursionError) as error:
            raise ConfigError(f"a TOML file was needed, {path}: {error}") from error
    for entry in fields(StationConfig):
        text = environment.get(ENVIRONMENT_PREFIX + entry.name.upper())
        if text is not None:
            table[entry.name] = _value(text)
    made: StationConfig = _made(StationConfig, table | dict(flags), "the settings")
    return made


def shown(config: StationConfig) -> dict[str, Any]:
    """Return the settings as JSON has them, without secrets."""
    return {name: _shown(name, value) for name, value in asdict(config).items()}


def _shown(name: str, value: Any) -> Any:
    if name in _SECRET and value is not None:
        return "…"
    if isinstance(value, dict):
        return {key: _shown(key, inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [_shown(name, inner) for inner in value]
    if isinstance(value, str):
        value = re.sub(r"//.*@", "//…@", value)
        return re.sub(_MASKED, r"\1…", value)
    return str(value) if isinstance(value, Path) else value


def _value(text: str) -> Any:
    """Return the value of a variable: as in TOML, or else the text itself."""
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except (ValueError, RecursionError):
        return text


def _made(kind: Any, table: Any, place: str) -> Any:
    """Return a dataclass made of a table; inner tables become inner dataclasses."""
    if not isinstance(table, Mapping):
        raise ConfigError(f"{place} must be a table, got {shown_value(table)}")
    hints = get_type_hints(kind, include_extras=True)
    if unknown := sorted(set(table) - set(hints)):
        raise ConfigError(
            f"{place} must be of {', '.join(hints)}, got {', '.join(unknown)}"
        )
    values = {}
    for name, value in table.items():
        kinds = (*get_args(hints[name]), hints[name])
        inner = next(filter(is_dataclass, kinds), None)
        if inner is None:
            values[name] = checked(name, value, hints[name])
        elif isinstance(value, list):
            values[name] = tuple(_made(inner, each, name) for each in value)
        else:
            values[name] = _made(inner, value, name)
    required = (f.name for f in fields(kind) if f.default is f.default_factory)
    if missing := sorted(set(required) - set(values)):
        raise ConfigError(f"{place} must have {', '.join(missing)}, got none")
    return kind(**values)
