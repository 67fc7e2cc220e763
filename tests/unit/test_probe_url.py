"""The URL of a health check: what is read, and what is refused with the mend."""

import re

import pytest

from watchdogd.config import ProbeUrl, Scheme, read_probe_url


@pytest.mark.parametrize(
    ("text", "url", "authority"),
    [
        (
            "http://127.0.0.1:8080/ping",
            ProbeUrl(Scheme.HTTP, "127.0.0.1", 8080, target="/ping", named=True),
            "127.0.0.1:8080",
        ),
        ("http://shop.example.org", ProbeUrl(Scheme.HTTP, "shop.example.org", 80), "shop.example.org"),
        ("https://[::1]/a?b=c", ProbeUrl(Scheme.HTTPS, "::1", 443, target="/a?b=c"), "[::1]"),
        ("https://[::1]:8443?b", ProbeUrl(Scheme.HTTPS, "::1", 8443, target="/?b", named=True), "[::1]:8443"),
        ("uwsgi://app:3031/ping", ProbeUrl(Scheme.UWSGI, "app", 3031, target="/ping", named=True), "app:3031"),
        (
            "http+unix:///run/shop.sock:/ping?a=:/",
            ProbeUrl(Scheme.HTTP_UNIX, socket="/run/shop.sock", target="/ping?a=:/"),
            "localhost",
        ),
        ("uwsgi+unix:///run/a b.sock:/", ProbeUrl(Scheme.UWSGI_UNIX, socket="/run/a b.sock"), "localhost"),
    ],
)
def test_five_schemes_are_read(text: str, url: ProbeUrl, authority: str) -> None:
    assert read_probe_url(text) == url
    assert read_probe_url(text).authority == authority


@pytest.mark.parametrize(
    ("text", "mend"),
    [
        ("127.0.0.1:8080/ping", "is no URL of a health check; write http://HOST:PORT/PATH"),
        ("ftp://a/secret", "is no URL of a health check"),
        ("http://a:0/secret", "has no valid port"),
        ("http:///secret", "has no name"),
        ("http://a/secret#x", "has a part after #, which no server gets; leave it out"),
        ("http://user:secret@a/", "has a user or a password, which are not sent"),
        ("http://a/se cret", "percent-encode it, as %20 for a space"),
        ("http://a/secret\r\nX: y", "has a path with a character that no URL has"),
        ("http://a/" + "secret" * 400, "has a path that is too long"),
        ("uwsgi://a/secret", "has no port, and the uwsgi protocol has none by itself"),
        ("uwsgi+unix:///run/secret", "like `uwsgi+unix:///run/uwsgi/app/shop/socket:/ping`"),
        ("http+unix://run/secret:/ping", "names no socket and path"),
        ("http+unix:///run/\x1bsecret:/ping", "has no path of a Unix socket"),
        ("http+unix:///" + "secret" * 20 + ":/ping", "the kernel takes up to 107 bytes"),
    ],
)
def test_what_is_wrong_is_told_with_the_mend_and_without_the_url(text: str, mend: str) -> None:
    with pytest.raises(ValueError, match=re.escape(mend)) as caught:
        read_probe_url(text)
    assert "secret" not in str(caught.value)


def test_what_is_shown_and_its_repr_have_no_query() -> None:
    url = read_probe_url("https://a:8443/ping?key=secret")
    assert url.shown == "https://a:8443/ping"
    assert "secret" not in repr(url)
    assert read_probe_url("uwsgi+unix:///run/a:/ping?key=secret").shown == "uwsgi+unix:///run/a:/ping"
