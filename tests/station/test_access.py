"""Who may do what: hosts, origins, tokens, roles, sessions."""

import re
import tomllib
from dataclasses import fields, is_dataclass
from pathlib import Path

import pytest
from fastapi.testclient import TestClient
from tests.station_fakes import INSPECTIONS, config_in, image_of, running
from tests.station_models import NORMAL, dangerous

from efficientad.errors import ConfigError
from efficientad.station.config import (
    Proxy,
    Role,
    StationConfig,
    Token,
    read_config,
    shown,
)
from efficientad.station.http.app import create_app
from efficientad.station.http.security import new_token

REPOSITORY = Path(__file__).resolve().parents[2]
ROLES: tuple[Role, ...] = ("line", "viewer", "operator", "engineer")


@pytest.fixture(scope="module")
def guarded(tmp_path_factory):
    secrets = {role: new_token() for role in ROLES}
    tokens = tuple(
        Token(name=role, role=role, sha256=secrets[role][1]) for role in ROLES
    )
    with running(
        config_in(tmp_path_factory.mktemp("station"), tokens=tokens)
    ) as client:
        yield client, {role: token for role, (token, _) in secrets.items()}


def as_role(tokens, role):
    return {"Authorization": f"Bearer {tokens[role]}"}


RIGHTS = [
    ("POST", INSPECTIONS, "line", 201),
    ("GET", INSPECTIONS, "viewer", 200),
    ("GET", "/api/v1/system", "viewer", 200),
    ("GET", "/api/v1/models", "viewer", 200),
    ("GET", "/api/v1/rules", "viewer", 200),
    ("GET", "/api/v1/activations", "viewer", 200),
    ("POST", "/api/v1/sources/x/pause", "operator", 404),
    ("POST", "/api/v1/sources/x/resume", "operator", 404),
    ("POST", "/api/v1/rules", "engineer", 422),
    ("POST", "/api/v1/activations", "engineer", 422),
    ("POST", "/api/v1/models", "engineer", 422),
]


@pytest.mark.parametrize("role", ROLES)
@pytest.mark.parametrize(("method", "path", "least", "status"), RIGHTS)
def test_a_role_may_do_what_those_before_it_may(
    guarded, method, path, least, status, role
):
    client, tokens = guarded
    content = image_of(NORMAL) if path == INSPECTIONS and method == "POST" else None
    answer = client.request(
        method, path, content=content, headers=as_role(tokens, role)
    )

    is_allowed = ROLES.index(role) >= ROLES.index(least)
    assert answer.status_code == (status if is_allowed else 403)


def test_every_path_of_the_interface_needs_a_token(guarded):
    client, _ = guarded
    paths = client.get("/openapi.json").json()["paths"]
    checked = 0
    for path, verbs in paths.items():
        place = path.replace("{number}", "01a229c9-2b0f-7505-a70e-51300368b131")
        for verb in verbs:
            if path.startswith("/api/") and (path, verb) not in OPEN:
                answer = client.request(verb, place.replace("{name}", "x"))
                assert answer.status_code == 401, (verb, path)
                checked += 1

    assert checked > 15


def test_a_proxy_names_people_and_only_a_listed_one_does(tmp_path):
    proxy = Proxy(addresses=("10.0.0.0/24",), engineers=("ann",), role="viewer")
    config = config_in(tmp_path, proxy=proxy)
    app = create_app(config, dangerous)
    session = "/api/v1/session"
    with TestClient(app, client=("10.0.0.2", 1)) as behind:
        other = TestClient(app, client=("10.0.1.2", 1))
        seen = [
            each.get(session, headers={"X-Forwarded-User": name})
            for each, name in [(behind, "ann"), (behind, "bob"), (other, "ann")]
        ]
        nobody = behind.get(session)

    assert [each.status_code for each in seen] == [200, 200, 401]
    assert seen[0].json() == {"name": "ann", "role": "engineer"}
    assert seen[1].json() == {"name": "bob", "role": "viewer"}
    assert nobody.status_code == 401


def test_the_cookie_is_secure_where_the_proxy_had_https(tmp_path):
    token, digest = new_token()
    config = config_in(
        tmp_path,
        tokens=(Token(name="ann", role="viewer", sha256=digest),),
        proxy=Proxy(addresses=("10.0.0.2",)),
    )
    app = create_app(config, dangerous)
    headers = {"X-Forwarded-Proto": "https"}
    with TestClient(app, client=("10.0.0.2", 1)) as behind:
        cookies = [
            client.post("/api/v1/session", json={"token": token}, headers=headers)
            for client in (behind, TestClient(app, client=("10.0.0.3", 1)))
        ]

    assert ["Secure" in each.headers["set-cookie"] for each in cookies] == [True, False]


def test_an_address_of_a_proxy_is_one():
    with pytest.raises(ConfigError, match=r"'10\.0\.0\.999' does not appear to be"):
        Proxy(addresses=("10.0.0.999",))


OPEN = {("/api/v1/session", "post"), ("/api/v1/session", "delete")}


@pytest.mark.parametrize(
    "value",
    [
        "Bearer wrong",
        "Bearer ",
        "Basic YWRtaW46YWRtaW4=",
        "Bearer \xe4\xf6\xfc",
        "Bearer ' OR 1=1 --",
        "",
    ],
)
def test_a_wrong_token_is_refused(guarded, value):
    client, _ = guarded
    headers = {"Authorization": value.encode("latin-1")}
    answer = client.get(INSPECTIONS, headers=headers)

    assert answer.status_code == 401
    assert answer.headers["www-authenticate"] == "Bearer"


def test_a_token_becomes_a_session_that_ends(guarded):
    client, tokens = guarded
    try:
        refused = client.post("/api/v1/session", json={"token": "wrong"})
        answer = client.post("/api/v1/session", json={"token": tokens["operator"]})
        cookie = answer.headers["set-cookie"]
        session = client.get("/api/v1/session").json()
        assert client.delete("/api/v1/session").status_code == 204
    finally:
        client.cookies.clear()

    assert refused.status_code == 401
    assert session == {"name": "operator", "role": "operator"}
    assert "HttpOnly" in cookie
    assert "SameSite=strict" in cookie
    headers = {"Cookie": cookie.partition(";")[0]}
    assert client.get("/api/v1/session", headers=headers).status_code == 401


def test_a_removed_token_is_revoked(tmp_path):
    token, digest = new_token()
    kept = Token(name="other", role="viewer", sha256=new_token()[1])
    gone = Token(name="gone", role="viewer", sha256=digest)
    headers = {"Authorization": f"Bearer {token}"}
    with running(config_in(tmp_path, tokens=(kept, gone))) as client:
        assert client.get(INSPECTIONS, headers=headers).status_code == 200
    with running(config_in(tmp_path, tokens=(kept,))) as client:
        assert client.get(INSPECTIONS, headers=headers).status_code == 401


@pytest.fixture(scope="module")
def open_station(tmp_path_factory):
    config = config_in(tmp_path_factory.mktemp("open"), allowed_hosts=("station.lan",))

    with TestClient(create_app(config, dangerous)) as client:
        yield client


HOSTS = {
    "localhost": 200,
    "localhost:8420": 200,
    "127.0.0.1:8420": 200,
    "[::1]:8420": 200,
    "STATION.lan": 200,
    "evil.example": 400,
    "localhost.evil.example": 400,
    "localhost@evil.example": 400,
    "station.lan:8420:1": 400,
    "": 400,
}


@pytest.mark.parametrize("host", HOSTS)
def test_only_the_station_s_own_names_are_answered(open_station, host):
    answer = open_station.get("/health/live", headers={"Host": host})

    assert answer.status_code == HOSTS[host]


@pytest.mark.parametrize(
    ("origin", "status"),
    [
        ("http://localhost:8420", 404),
        ("https://localhost:8420", 404),
        ("http://evil.example", 403),
        ("http://localhost:9999", 403),
        ("null", 403),
        ("http://[", 403),
        ("http://localhost:8420.evil.example", 403),
    ],
)
def test_changes_come_from_the_station_s_own_page(open_station, origin, status):
    headers = {"Host": "localhost:8420", "Origin": origin}
    answer = open_station.post("/api/v1/sources/x/pause", headers=headers)

    assert answer.status_code == status


@pytest.mark.parametrize("path", ["/health/live", "/nowhere", "/api/v1/inspections"])
def test_every_answer_has_the_security_headers(open_station, path):
    headers = open_station.get(path, headers={"Host": "localhost"}).headers

    assert headers["content-security-policy"].startswith("default-src 'none'")
    assert "unsafe" not in headers["content-security-policy"]
    assert headers["x-content-type-options"] == "nosniff"


def test_a_station_for_others_needs_tokens_or_a_clear_word(tmp_path):
    with pytest.raises(ConfigError, match="needs tokens, got none"):
        config_in(tmp_path, host="0.0.0.0")  # noqa: S104 - that is the point
    config_in(tmp_path, host="0.0.0.0", is_open=True)  # noqa: S104


def test_flags_go_before_the_environment_and_that_before_the_file(tmp_path):
    path = tmp_path / "station.toml"
    path.write_text(
        'model = "a.ead"\nport = 1\nname = "file"\nmax_places = 3\n'
        '[[tokens]]\nname = "line"\nrole = "line"\nsha256 = "' + 32 * "ab" + '"\n'
        '[mqtt]\nhost = "broker"\npassword = "secret"\n'
    )
    environment = {"EFFICIENTAD_STATION_PORT": "2", "EFFICIENTAD_STATION_NAME": "env"}
    config = read_config(path, environment, {"name": "flag"})

    assert (config.port, config.name, config.max_places) == (2, "flag", 3)
    assert config.tokens[0].role == "line"
    text = str(shown(config))
    assert "secret" not in text
    assert "abab" not in text
    assert "broker" in text


def test_the_example_has_all_settings_with_their_defaults(tmp_path):
    text = (REPOSITORY / "examples/station/station.toml").read_text()
    text = re.sub(r"(?m)^# (?=\w+ = |\[)", "", text)
    path = tmp_path / "station.toml"
    path.write_text(re.sub('sha256 = ".*"', f'sha256 = "{32 * "ab"}"', text))
    table = tomllib.loads(path.read_text())

    config = read_config(path, {}, {"model": "part.ead"})
    usual = StationConfig(model=Path("part.ead"))
    own = {"name", "database", "media", "replica", "n_threads", "silent_seconds"}
    for entry in fields(StationConfig):
        default, value = getattr(usual, entry.name), getattr(config, entry.name)
        is_table = is_dataclass(value) or (isinstance(value, tuple) and value)
        assert entry.name in {*table, "model", "data", "is_open"}
        assert is_table or entry.name in own or value == default, entry.name
    assert config.retention == usual.retention


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("model = 'a'\nport = 'x'", "port must be a whole number"),
        ("model = 'a'\nprot = 1", "got prot"),
        ("port = 1", "must have model"),
        ("model = 'a'\n[[tokens]]\nname = 'x'", "must have role, sha256"),
        ("model = 'a'\ntokens = 1", "must be a table"),
        ("model = 'a'\nname = 'a/b'", "names of station"),
        ("model = ", "a TOML file was needed"),
        (f"model = {'[' * 5000}", "a TOML file was needed"),
    ],
)
def test_settings_out_of_form_are_refused_in_words(tmp_path, text, words):
    path = tmp_path / "station.toml"
    path.write_text(text)

    with pytest.raises(ConfigError, match=words):
        read_config(path, {}, {})
