from __future__ import annotations

from e2e.service_fixtures import fresh_service, service

__all__ = ["fresh_service", "service"]
