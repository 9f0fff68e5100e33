"""What a process is told by its environment. A missing required setting stops the start; nothing is guessed."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict


class Settings(BaseSettings):
    """Settings of the API and the worker, read from `HOLDFAST_*`."""

    model_config = SettingsConfigDict(env_prefix="HOLDFAST_", extra="ignore", frozen=True)

    database_url: str = Field(min_length=1)
    broker_url: str = Field(min_length=1)
    signer_socket: Path
    policies: Path
    data_dir: Path
    issuer: str = Field(min_length=1, pattern=r"^https?://[^\s]+[^/\s]$")
    instance: str = Field(min_length=1, pattern=r"^[a-z0-9][a-z0-9-]{0,62}$")
    journal_max_bytes: int = Field(default=256 << 20, ge=1 << 20)
    commit_hedge_ms: int = Field(default=250, ge=10, le=2000)

    @field_validator("policies", "data_dir")
    @classmethod
    def _is_directory(cls, value: Path) -> Path:
        if not value.is_dir():
            raise ValueError("is not a directory")
        return value
