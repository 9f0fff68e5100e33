"""Who is told, as the operator wrote it: a strict YAML file. Secrets are named by environment variable or file.

A file that is there and cannot be used refuses the start, with the place; no file is no channel.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final, Literal, Self, TypeAlias
from urllib.parse import urlsplit

import httpx2
from pydantic import Field, StringConstraints, model_validator

from services.decision import finding
from services.decision.finding import BundleInvalid
from services.decision.strict_model import Distinct, Items, StrictModel, read_model
from services.notices.channel import Channel, Receiver
from services.notices.channels.alertmanager import PATH, Alertmanager
from services.notices.channels.apprise import AddressRefused, Apprise, AppriseMissing
from services.notices.channels.pagerduty import EVENTS_URL, PagerDuty
from services.notices.channels.post import Post
from services.notices.channels.slack import Slack
from services.notices.channels.webhook import Webhook
from services.notices.incident import IncidentSettings
from services.notices.notice import Kind, Severity
from services.outbound.keyfile import KeyUnusable, load_or_create
from signer import private_file
from signer.private_file import UnsafeFile

if TYPE_CHECKING:
    from collections.abc import Mapping

    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    from services.decision.finding import Finding
    from services.decision.strict_yaml import Node

MAX_FILE_BYTES: Final = 256 * 1024
_MAX_SECRET_BYTES: Final = 8192
_MAX_CHANNELS: Final = 32
_LONGEST_S: Final = 3600

Url = Annotated[str, StringConstraints(pattern=r"^https?://[^\s\x00-\x1f\x7f]{1,2000}$")]
Variable = Annotated[str, StringConstraints(pattern=r"^[A-Za-z_][A-Za-z0-9_]{0,127}$")]
FileName = Annotated[str, StringConstraints(pattern=r"^[^\x00]{1,1024}$")]
ChannelName = Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9-]{0,62}$")]


class ConfigurationInvalid(Exception):
    """The file may not be used. A line each, with file, line and column."""

    def __init__(self, findings: tuple[Finding, ...]) -> None:
        self.findings = findings
        super().__init__("\n".join(f"{one.path}:{one.line}:{one.column}: {one.message}" for one in findings))


# --- the file ---------------------------------------------------------------------------------------------------------


class _Channel(StrictModel):
    name: ChannelName
    min_severity: Annotated[Severity, Field(strict=False)] = Severity.WARNING
    kinds: Distinct[Annotated[Kind, Field(strict=False)]] | None = None

    @model_validator(mode="after")
    def _some_kind(self) -> Self:
        if self.kinds is not None and not self.kinds:
            raise ValueError("`kinds` must not be empty: leave it out for every kind")
        return self


class _Addressed(_Channel):
    """A channel whose address may be a secret."""

    url: Url | None = None
    url_env: Variable | None = None
    url_file: FileName | None = None
    allow_http: bool = False

    @model_validator(mode="after")
    def _one_address(self) -> Self:
        _exactly_one("url", self.url, self.url_env, self.url_file)
        return self


class _Secret(_Channel):
    """A channel whose address is a secret."""

    url_env: Variable | None = None
    url_file: FileName | None = None

    @model_validator(mode="after")
    def _one_address(self) -> Self:
        _exactly_one("url", self.url_env, self.url_file)
        return self


class WebhookChannel(_Addressed):
    """Standard Webhooks, signed."""

    type: Literal["webhook"]


class AlertmanagerChannel(_Addressed):
    """Prometheus Alertmanager; the URL is its root."""

    type: Literal["alertmanager"]
    authorization_env: Variable | None = None
    authorization_file: FileName | None = None


class SlackChannel(_Secret):
    """A Slack incoming webhook."""

    type: Literal["slack"]
    allow_http: bool = False


class PagerDutyChannel(_Channel):
    """PagerDuty, Events API v2."""

    type: Literal["pagerduty"]
    url: Url = EVENTS_URL
    allow_http: bool = False
    routing_key_env: Variable | None = None
    routing_key_file: FileName | None = None

    @model_validator(mode="after")
    def _one_key(self) -> Self:
        _exactly_one("routing_key", self.routing_key_env, self.routing_key_file)
        return self


class AppriseChannel(_Secret):
    """Anything that apprise has an address for."""

    type: Literal["apprise"]


AnyChannel: TypeAlias = Annotated[
    WebhookChannel | SlackChannel | PagerDutyChannel | AlertmanagerChannel | AppriseChannel,
    Field(discriminator="type"),
]


class Incidents(StrictModel):
    """When an outage becomes an incident, and when it is over. In seconds."""

    open_after_s: Annotated[int, Field(ge=1, le=_LONGEST_S)] = 3
    stable_s: Annotated[int, Field(ge=1, le=_LONGEST_S)] = 60


class NotifyFile(StrictModel):
    """The whole file."""

    version: Literal[1] = 1
    incidents: Incidents = Incidents()
    webhook_key_file: FileName | None = None
    channels: Annotated[Items[AnyChannel], Field(max_length=_MAX_CHANNELS)]

    @model_validator(mode="after")
    def _distinct_names(self) -> Self:
        if not self.channels:
            raise ValueError("no channel: remove the file if nobody is to be told")
        names = [channel.name for channel in self.channels]
        if repeated := sorted({name for name in names if names.count(name) > 1}):
            raise ValueError(f"two channels are named `{repeated[0]}`")
        return self


def _exactly_one(name: str, *given: str | None) -> None:
    if sum(value is not None for value in given) != 1:
        plain = f"`{name}`, " if len(given) > 2 else ""  # noqa: PLR2004 - plain, by variable, by file
        raise ValueError(f"give exactly one of {plain}`{name}_env` or `{name}_file`")


# --- what is made of it -----------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Notifications:
    """What a process needs: its channels, and what an incident is. No file, no channel."""

    incidents: IncidentSettings
    channels: tuple[Channel, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Outline:
    """What can be said of the file without its secrets."""

    names: tuple[str, ...]
    key_file: Path


def read(path: Path | None, *, default_key_file: Path, environment: Mapping[str, str], source: str) -> Notifications:
    """Read the file and make its channels. `source` names this deployment to receivers.

    Raises: ConfigurationInvalid.
    """
    if path is None:
        return Notifications(incidents=IncidentSettings(), channels=())
    file, tree = _parsed(path)
    key_file = _key_file(file, path, default_key_file)
    maker = _Maker(path.parent, key_file, environment, source)
    channels: list[Channel] = []
    findings = []
    for number, channel in enumerate(file.channels):
        try:
            channels.append(maker.channel(channel))
        except _Unusable as error:
            line, column = tree.at("channels", number, *error.place)
            findings.append(finding.error(str(path), f"channel `{channel.name}`: {error}", line=line, column=column))
    if findings:
        raise ConfigurationInvalid(tuple(findings))
    settings = IncidentSettings(open_after_s=file.incidents.open_after_s, stable_s=file.incidents.stable_s)
    return Notifications(incidents=settings, channels=tuple(channels))


def outline(path: Path | None, *, default_key_file: Path) -> Outline:
    """Read the file alone: no secret is looked up, no key made. Raises: ConfigurationInvalid."""
    if path is None:
        return Outline(names=(), key_file=default_key_file)
    file, _ = _parsed(path)
    names = tuple(channel.name for channel in file.channels)
    return Outline(names=names, key_file=_key_file(file, path, default_key_file))


def _parsed(path: Path) -> tuple[NotifyFile, Node]:
    try:
        data = private_file.read(path, forbidden=private_file.NOT_OURS_ALONE_TO_CHANGE, max_bytes=MAX_FILE_BYTES)
        return read_model(str(path), data, NotifyFile)
    except UnsafeFile as error:
        raise ConfigurationInvalid((finding.error(str(path), str(error)),)) from error
    except BundleInvalid as error:
        raise ConfigurationInvalid(error.findings) from error


def _key_file(file: NotifyFile, path: Path, default: Path) -> Path:
    return default if file.webhook_key_file is None else path.parent / file.webhook_key_file


class _Unusable(Exception):
    """A channel that cannot be made, and which member is to blame."""

    def __init__(self, why: str, *place: str) -> None:
        super().__init__(why)
        self.place = place


class _Maker:
    """Makes receivers of what the file says."""

    def __init__(self, directory: Path, key_file: Path, environment: Mapping[str, str], source: str) -> None:
        self._directory = directory
        self._key_file = key_file
        self._environment = environment
        self._source = source

    def channel(self, given: AnyChannel) -> Channel:
        """Return the channel. Raises: _Unusable."""
        url, receiver = self._receiver(given)
        return Channel(
            name=given.name,
            address=hashlib.sha256(url.encode("utf-8")).hexdigest(),
            receiver=receiver,
            min_severity=given.min_severity,
            kinds=None if given.kinds is None else frozenset(given.kinds),
        )

    def _receiver(self, given: AnyChannel) -> tuple[str, Receiver]:
        match given:
            case WebhookChannel():
                url = self._address(given)
                return url, Webhook(Post(url), self._key())
            case SlackChannel():
                url = _checked(self._secret("url", given.url_env, given.url_file), allow_http=given.allow_http)
                return url, Slack(Post(url))
            case PagerDutyChannel():
                key = self._secret("routing_key", given.routing_key_env, given.routing_key_file)
                post = Post(_checked(given.url, allow_http=given.allow_http))
                return f"{given.url} {key}", PagerDuty(post, routing_key=key, source=self._source)
            case AlertmanagerChannel():
                url = self._address(given).rstrip("/") + PATH
                return url, Alertmanager(Post(url, headers=self._authorization(given)))
            case AppriseChannel():
                url = self._secret("url", given.url_env, given.url_file)
                try:
                    return url, Apprise(url)
                except (AppriseMissing, AddressRefused) as error:
                    raise _Unusable(str(error), "type") from error

    def _address(self, given: _Addressed) -> str:
        url = given.url if given.url is not None else self._secret("url", given.url_env, given.url_file)
        return _checked(url, allow_http=given.allow_http)

    def _authorization(self, given: AlertmanagerChannel) -> dict[str, str]:
        if given.authorization_env is None and given.authorization_file is None:
            return {}
        if given.authorization_env is not None and given.authorization_file is not None:
            raise _Unusable("give `authorization_env` or `authorization_file`", "authorization_file")
        return {"authorization": self._secret("authorization", given.authorization_env, given.authorization_file)}

    def _secret(self, name: str, variable: str | None, file: str | None) -> str:
        """Return what the variable or the file holds; errors name the place, never the value."""
        if variable is not None:
            value = self._environment.get(variable, "")
            if not value:
                raise _Unusable(f"the environment variable `{variable}` is not set", f"{name}_env")
        else:
            path = self._directory / (file or "")
            try:
                data = private_file.read(
                    path, forbidden=private_file.NOT_OURS_ALONE_TO_CHANGE, max_bytes=_MAX_SECRET_BYTES
                )
                value = data.decode("utf-8").strip()
            except (UnsafeFile, UnicodeDecodeError) as error:
                raise _Unusable(f"the secret cannot be read: {error}", f"{name}_file") from error
        if not value or not value.isascii() or not value.isprintable():
            raise _Unusable("the secret is empty, or not one line of printable ASCII", f"{name}_env", f"{name}_file")
        return value

    def _key(self) -> Ed25519PrivateKey:
        try:
            return load_or_create(self._key_file)
        except KeyUnusable as error:
            raise _Unusable(str(error)) from error


def _checked(url: str, *, allow_http: bool) -> str:
    """Return the URL if messages may be sent there. Raises: _Unusable."""
    try:
        parts = urlsplit(url)
        httpx2.URL(url)
        host, port = parts.hostname, parts.port
    except (ValueError, httpx2.InvalidURL) as error:
        raise _Unusable("the address is not a URL", "url") from error
    if parts.scheme not in ("https", "http") or not host or port == 0:
        raise _Unusable("the address is not an `https://` URL", "url")
    if parts.username is not None or parts.password is not None or parts.fragment:
        raise _Unusable("the address holds a user, a password or a fragment", "url")
    if parts.scheme == "http" and not allow_http and not _is_near(host):
        raise _Unusable("http to another network needs `allow_http: true`", "url")
    return url


def _is_near(host: str) -> bool:
    try:
        address = ip_address(host)
    except ValueError:
        return host == "localhost"
    return address.is_loopback or address.is_private
