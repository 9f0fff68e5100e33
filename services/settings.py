"""What a process is told by its environment. A missing required setting stops the start; nothing is guessed."""

from __future__ import annotations

from ipaddress import ip_address
from pathlib import Path
from urllib.parse import urlsplit

from pydantic import Field, SecretStr, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from services.outbound.guard import Guard


class Settings(BaseSettings):
    """Settings of the API and the worker, read from `HOLDFAST_*`."""

    model_config = SettingsConfigDict(env_prefix="HOLDFAST_", extra="ignore", frozen=True)

    database_url: str = Field(min_length=1)
    broker_url: str = Field(min_length=1)
    signer_socket: Path
    policies: Path | None = None  # read by provision alone: the others follow the active bundle in the store
    policy_keys: Path | None = None  # the publishers whose signature a bundle needs; None: it needs none
    data_dir: Path
    issuer: str = Field(min_length=1, pattern=r"^https?://[^\s]+[^/\s]$")
    instance: str = Field(min_length=1, pattern=r"^[a-z0-9][a-z0-9-]{0,62}$")
    journal_max_bytes: int = Field(default=256 << 20, ge=1 << 20)
    commit_hedge_ms: int = Field(default=250, ge=10, le=2000)
    notify: Path | None = None
    webhook_key: Path | None = None  # without it nobody is called back
    webhook_allow: str = ""  # networks, addresses and names that may be reached though they are not public
    webhook_plain_http: bool = False
    webhook_ca: Path | None = None
    classifier_url: str | None = None
    classifier_token: SecretStr | None = Field(default=None, min_length=1)
    classifier_min_confidence: float = Field(default=0.8, ge=0, le=1, allow_inf_nan=False)

    @field_validator("policies", "data_dir")
    @classmethod
    def _is_directory(cls, value: Path | None) -> Path | None:
        if value is not None and not value.is_dir():
            raise ValueError("is not a directory")
        return value

    @field_validator("webhook_allow")
    @classmethod
    def _is_a_list_of_places(cls, value: str) -> str:
        Guard.allowing(places(value))
        return value

    @field_validator("classifier_url")
    @classmethod
    def _is_private(cls, value: str | None) -> str | None:
        if value is None:
            return None
        parts = urlsplit(value)
        if not parts.hostname or parts.username is not None or parts.password is not None or parts.fragment:
            raise ValueError("is not a plain URL")
        if parts.scheme != "https" and not (parts.scheme == "http" and _is_loopback(parts.hostname)):
            raise ValueError("must be https, or http to this very machine")
        return value


def guard_of(settings: Settings) -> Guard:
    """Return the rules for whom this service may call back."""
    return Guard.allowing(places(settings.webhook_allow), plain_http=settings.webhook_plain_http)


def places(text: str) -> list[str]:
    """Return the entries of a list with commas."""
    return [entry for part in text.split(",") if (entry := part.strip())]


def _is_loopback(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
