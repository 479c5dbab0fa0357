"""Tokens of the tests' issuer that must be refused, each for one thing, and the oddest ones that must be accepted."""

import json
import time
from collections.abc import Callable, Mapping
from typing import Any, Final

import jwt

from harness.forging import Sign, forge, hs256, segment
from harness.tokens import AUDIENCE, ISSUER, SECRET

NOW: Final = int(time.time())
LEEWAY: Final = 10
DAY: Final = 24 * 60 * 60
ABSENT: Final = ...
"""As a value: leave the member out."""
_ALPHABET: Final = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"


def claims(**changes: Any) -> dict[str, Any]:
    """Good claims of vk-1 but for these changes."""
    return _changed({"iss": ISSUER, "aud": AUDIENCE, "exp": NOW + 3600, "virtual_key_id": "vk-1"}, changes)


def header(**changes: Any) -> dict[str, Any]:
    """A good header but for these changes."""
    return _changed({"alg": "HS256", "typ": "JWT"}, changes)


def _changed(good: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in {**good, **changes}.items() if value is not ABSENT}


def spelled(name: str, value: str) -> bytes:
    """Good claims as JSON text, in which one of them is spelled like this."""
    return json.dumps(claims(**{name: "SPELLED"})).replace('"SPELLED"', value).encode()


def _unsigned(_: bytes) -> bytes:
    return b""


def _claim(name: str) -> Callable[[Any], str]:
    return lambda value: forge(claims(**{name: value}))


def _spelling(name: str) -> Callable[[Any], str]:
    return lambda value: forge(spelled(name, value))


def _member(name: str) -> Callable[[Any], str]:
    return lambda value: forge(claims(), header(**{name: value}))


def _alg(sign: Sign) -> Callable[[Any], str]:
    return lambda value: forge(claims(), header(alg=value), sign)


def _role(value: Any) -> str:
    return forge(claims(virtual_key_id=ABSENT, role=value))


def _rows(name: str, make: Callable[[Any], str], *values: Any, **named: Any) -> Mapping[str, str]:
    """One row for each value, called by its repr or by its name."""
    rows = {**{repr(value): value for value in values}, **named}
    return {f"{name} {row}": make(value) for row, value in rows.items()}


def _alias(token: str) -> str:
    """Another spelling of the same bytes: the last character's unused bits set."""
    return token[:-1] + _ALPHABET[_ALPHABET.index(token[-1]) + 1]


GOOD: Final = forge(claims())
_ALGS: Final = ("none", "nOnE", "None", "", ABSENT, None, 1, ["HS256"], {"HS256": 1}, "hs256", "HS256 ", "HS384")

BAD_TOKENS: Final[Mapping[str, str]] = {
    **_rows("J3 signed, alg", _alg(hs256()), *_ALGS),
    **_rows("J3 unsigned, alg", _alg(_unsigned), *_ALGS),
    "J3 empty signature": forge(claims(), sign=_unsigned),
    "J5 HS512 header": forge(claims(), header(alg="HS512")),
    "J5 HS512": jwt.encode(claims(), SECRET + SECRET, "HS512"),
    **_rows("J6 exp", _claim("exp"), ABSENT, None),
    **_rows("J7 exp", _claim("exp"), 0, past=NOW - LEEWAY - 1, negative=-NOW, too_late=NOW + 31 * DAY),
    **_rows("J7 exp", _spelling("exp"), "true", "[1]", "{}", '"abc"', "NaN", "Infinity", "-Infinity", "1e999"),
    **_rows("J7 exp", _spelling("exp"), text=f'"{NOW + 3600}"', past_fraction=f"{NOW - LEEWAY - 1}.5"),
    **_rows("J7 exp", _spelling("exp"), digits_5000="9" * 5000, ten_to_400=str(10**400)),
    **_rows("J8 nbf", _spelling("nbf"), "NaN", "[1]", "null", "true", "1e999", text=f'"{NOW}"', future=str(NOW + DAY)),
    **_rows("J8 iat", _spelling("iat"), "NaN", "[1]", "null", "true", "1e999", text=f'"{NOW}"', future=str(NOW + DAY)),
    **_rows("J9 aud", _claim("aud"), ABSENT, None, "", "other", "jobstatus2", "JOBSTATUS", 1, [], [1], ["other"], {}),
    **_rows(
        "J10 iss", _claim("iss"), ABSENT, None, "", "other", ISSUER[:-1], ISSUER + "/", [ISSUER], 1, ISSUER.upper()
    ),
    **_rows(
        "J11 vk", _claim("virtual_key_id"), 1, None, "", True, {}, ["vk-1"], "../x", "vk 1", "vk-1é", "vk-1\0", "vk-1\n"
    ),
    **_rows("J11 vk", _claim("virtual_key_id"), chars_129="a" * 129, chars_5000="a" * 5000),
    **_rows("J11 sub", _claim("sub"), 1, ["a"]),
    "J12 both kinds": forge(claims(role="admin")),
    "J12 neither kind": forge(claims(virtual_key_id=ABSENT)),
    "J12 admin flag": forge(claims(virtual_key_id=ABSENT, admin=True)),
    "J12 role is no string": forge(claims(role=["user"])),
    **_rows("J12 role", _role, "", "Admin", "ADMIN", "admin ", "user", ["admin"], True, None, {"admin": 1}),
    **_rows("J13 typ", _member("typ"), "at+jwt", "JWS", "application/jwt", "", None, 1, ["JWT"]),
    "J13 cty": forge(claims(), header(cty="JWT")),
    "J13 nested": forge(GOOD.encode(), header(cty="JWT")),
    "J13 nested, not declared": forge(GOOD.encode()),
    "J13 JWE": ".".join([segment({"alg": "dir", "enc": "A256GCM"}), "", "AAAA", "AAAA", "AAAA"]),
    **_rows("J14 crit", _member("crit"), ["x"], ["b64"], ["exp"], "b64", [], None),
    **_rows("J14 b64", _member("b64"), False, True),
    **_rows(
        "J15 kid",
        _member("kid"),
        "../../dev/null",
        "/dev/null",
        "' OR 1=1--",
        "a\0",
        "",
        "unknown",
        "http://x",
        1,
        None,
    ),
    **_rows("J15 kid", _member("kid"), ["a"], {}, chars_5000="k" * 5000),
    "J18 exp twice": forge(spelled("exp", f'1,"exp":{NOW + 3600}')),
    "J18 vk twice": forge(spelled("virtual_key_id", '"vk-2","virtual_key_id":"vk-1"')),
    "J18 alg twice": forge(claims(), b'{"alg":"none","alg":"HS256"}'),
    "J19 claims in UTF-16": forge(json.dumps(claims()).encode("utf-16")),
    "J19 claims in UTF-32": forge(json.dumps(claims()).encode("utf-32-le")),
    "J19 claims with a BOM": forge(b"\xef\xbb\xbf" + json.dumps(claims()).encode()),
    "J19 claims in Latin-1": forge(spelled("jti", '"ä"').decode().encode("latin-1")),
    "J19 header with a BOM": forge(claims(), b'\xef\xbb\xbf{"alg":"HS256"}'),
    "J21 two segments": GOOD.rpartition(".")[0],
    "J21 four segments": f"{GOOD}.{GOOD.rpartition('.')[2]}",
    **_rows("J21", str, "x", ".", "..", "...", "null", "{}"),
    "J21 padding": GOOD + "=",
    "J21 not canonical": _alias(GOOD),
    "J21 other alphabet": forge(claims(), sign=lambda _: b"\xfb\xff" * 16).replace("-", "+").replace("_", "/"),
    "J21 claims are a list": forge([claims()]),
    "J21 claims are a string": forge("vk-1"),
    "J21 claims are no JSON": forge(b"{"),
    "J21 claims nest deeply": forge(b'{"a":' + b"[" * 2000 + b"]" * 2000 + b"}"),
    "J21 header is a list": forge(claims(), ["HS256"]),
    "J21 other claims": ".".join([*forge(claims(virtual_key_id="vk-2")).split(".")[:2], GOOD.split(".")[2]]),
    "another secret": forge(claims(), sign=hs256("another secret of more than thirty-two bytes")),
    "no secret": forge(claims(), sign=hs256("")),
}

GOOD_TOKENS: Final[Mapping[str, str]] = {
    "J7 the longest life": forge(claims(exp=NOW + 30 * DAY)),
    **_rows("J7 exp", _spelling("exp"), fraction=f"{NOW + 3600}.25", power=f"{NOW + 3600}e0"),
    **_rows("J8 nbf", _spelling("nbf"), fraction=f"{NOW - 600}.5"),
    **_rows("J8 iat", _spelling("iat"), fraction=f"{NOW - 600}.5"),
    "J8 past nbf and iat": forge(claims(nbf=NOW - 600, iat=NOW - 600)),
    "J8 within the leeway": forge(claims(nbf=NOW + LEEWAY - 2, iat=NOW + LEEWAY - 2)),
    "J9 aud is a list with ours": forge(claims(aud=["other", AUDIENCE])),
    "J12 a role of no meaning": forge(claims(role="user", admin=True)),
    "J12 admin": forge(claims(virtual_key_id=ABSENT, role="admin")),
    "J13 no typ": forge(claims(), header(typ=ABSENT)),
    "J13 typ in lower case": forge(claims(), header(typ="jwt")),
    "J16 keys elsewhere": forge(claims(), header(jku="http://127.0.0.1:1/", x5u="http://127.0.0.1:1/", jwk={}, x5c=[])),
    "claims of no meaning": forge(claims(sub="user-1", scope="x", nested={"a": [1, None]}, jti="t-1")),
}
