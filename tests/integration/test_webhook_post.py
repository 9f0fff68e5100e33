"""The connection goes to the address that was checked, and TLS goes by the name."""

from __future__ import annotations

import asyncio
import datetime as dt
from ipaddress import ip_address

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from e2e.receiver import Receiver

from services.outbound.guard import Guard, Refused, Unresolved
from services.outbound.post import Poster, SystemResolver, Undelivered

pytestmark = pytest.mark.integration

NAME = "hooks.test"


class Names:
    """A resolver that says one thing after another; the last one stays."""

    def __init__(self, *answers: str) -> None:
        self.answers = list(answers)

    async def resolve(self, host, port):
        return [self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]]


class SeveralNames:
    async def resolve(self, host, port):
        return ["::1", "127.0.0.1"]  # nobody listens at the first


@pytest.fixture(scope="module")
def certificate(tmp_path_factory):
    """Write a certificate for NAME with its key, and return the file."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, NAME)])
    now = dt.datetime.now(dt.UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - dt.timedelta(days=1))
        .not_valid_after(now + dt.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(NAME)]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    path = tmp_path_factory.mktemp("tls") / "hooks.pem"
    path.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
        + made.public_bytes(serialization.Encoding.PEM)
    )
    return path


@pytest.fixture(scope="module")
def tls(certificate):
    receiver = Receiver(certificate=certificate)
    yield receiver
    receiver.close()


@pytest.fixture(scope="module")
def plain():
    receiver = Receiver()
    yield receiver
    receiver.close()


def poster(*answers: str, allow=("127.0.0.1",), certificate=None, timeout_s=5.0) -> Poster:
    guard = Guard.allowing(allow, plain_http=True)
    return Poster(guard, Names(*answers), authorities=certificate, timeout_s=timeout_s)


async def test_the_checked_address_is_connected_to_and_the_certificate_is_the_names(tls, certificate):
    """Nothing but our resolver knows this name: a second look-up would find nothing."""
    receipt = await poster("127.0.0.1", certificate=certificate).post(
        tls.url("/good/tls", host=NAME), {"x": "y"}, b"{}"
    )

    [message] = tls.at("/good/tls")
    assert (receipt.status, message.headers["host"], message.headers["x"]) == (204, f"{NAME}:{tls.port}", "y")


async def test_a_certificate_of_another_name_or_of_nobody_we_trust_ends_it(tls, certificate):
    with pytest.raises(Undelivered):
        await poster("127.0.0.1", certificate=certificate).post(tls.url("/good/other", host="other.test"), {}, b"{}")
    with pytest.raises(Undelivered):
        await poster("127.0.0.1").post(tls.url("/good/other", host=NAME), {}, b"{}")
    assert tls.at("/good/other") == []


async def test_a_name_that_is_bound_anew_between_check_and_delivery_reaches_nothing(plain):
    rebound = poster("127.0.0.1", "169.254.169.254")
    await rebound.post(plain.url("/good/first", host=NAME), {}, b"{}")
    with pytest.raises(Refused):
        await rebound.post(plain.url("/good/second", host=NAME), {}, b"{}")

    assert (len(plain.at("/good/first")), plain.at("/good/second")) == (1, [])


async def test_an_address_that_is_not_allowed_is_never_connected_to(plain):
    with pytest.raises(Refused):
        await poster("127.0.0.1", allow=()).post(plain.url("/good/never", host=NAME), {}, b"{}")
    with pytest.raises(Refused):
        await poster("127.0.0.1", allow=()).post(plain.url("/good/never"), {}, b"{}")
    assert plain.at("/good/never") == []


async def test_of_several_addresses_one_that_answers_is_enough(plain):
    several = poster("127.0.0.1", allow=("127.0.0.1", "::1"))
    several._resolver = SeveralNames()
    assert (await several.post(plain.url("/good/several", host=NAME), {}, b"{}")).status == 204


async def test_a_redirect_is_an_answer_and_no_way_on(plain):
    assert (await poster("127.0.0.1").post(plain.url("/redirect", host=NAME), {}, b"{}")).status == 307
    assert [message for message in plain.got if "trap" in message.path] == []


async def test_who_asks_for_time_is_heard(plain):
    receipt = await poster("127.0.0.1").post(plain.url("/fail-once", host=NAME), {}, b"{}")
    assert (receipt.status, receipt.retry_after_s) == (503, 1)


@pytest.mark.parametrize("path", ["/hang", "/drip"])
async def test_a_receiver_gets_only_so_much_time(plain, path):
    with pytest.raises(Undelivered, match="no answer in time"):
        await poster("127.0.0.1", timeout_s=0.3).post(plain.url(path, host=NAME), {}, b"{}")


async def test_of_an_answer_that_never_ends_only_the_status_is_taken(plain):
    assert (await poster("127.0.0.1").post(plain.url("/flood", host=NAME), {}, b"{}")).status == 200


async def test_a_receiver_that_is_not_there_is_undelivered(plain):
    free = Receiver()
    url = free.url("/good", host=NAME)
    free.close()
    with pytest.raises(Undelivered):
        await poster("127.0.0.1").post(url, {}, b"{}")


async def test_the_environments_proxy_is_not_asked(plain, monkeypatch):
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:1")
    monkeypatch.setenv("ALL_PROXY", "http://127.0.0.1:1")
    assert (await poster("127.0.0.1").post(plain.url("/good/proxy", host=NAME), {}, b"{}")).status == 204


async def test_the_systems_resolver_is_bounded_and_gives_addresses():
    resolver = SystemResolver()
    async with asyncio.timeout(10):
        assert ip_address((await resolver.resolve("localhost", 443))[0]).is_loopback
        with pytest.raises(Unresolved):
            await resolver.resolve("no.such.name.invalid", 443)
    resolver.close()
