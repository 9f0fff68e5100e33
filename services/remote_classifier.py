"""A classifier over HTTP, in front of the catalogue. The catalogue stays the arbiter.

1. What the catalogue does not know, or does not accept, is refused. The classifier is not asked.
2. The classifier names a category of the catalogue, with a confidence at or above the floor. Everything else is no
   classification at all: CLASSIFICATION_UNAVAILABLE, and the intent waits.
3. The same category changes nothing. Another one disputes the catalogue's: the graver impact counts for the risk and
   the rules, and nothing that the catalogue alone would refuse is allowed. It can only raise.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import httpx2
from holdfast import strict_json
from holdfast.errors import MalformedJSON

from services.boundary import WrongAnswer
from services.decision.policy import Classified, Dispute

if TYPE_CHECKING:
    from holdfast.intent import Intent
    from holdfast.strict_json import JSON

    from services.decision.policy import Policy
    from services.decision.verdict import Deny

MAX_ANSWER_BYTES: Final = 64 * 1024
_MAX_VERSION: Final = 64
_CONNECTIONS: Final = 50
#: The boundary's deadline comes first; this bounds what an abandoned connection may hold.
_TIMEOUT_S: Final = 60.0
_OK: Final = 200
#: What a server says of one request, not of itself: an agent's intent must not open the boundary for the others.
_ABOUT_THE_REQUEST: Final = frozenset({400, 413, 414, 422})


class ClassifierUnreachable(Exception):
    """The classifier is away, or does not speak the protocol."""


class ClassifierUnsure(Exception):
    """The classifier works, and could not classify this one intent."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Answer:
    category: str
    confidence: float
    version: str | None


class RemoteClassifier:
    """The Classifier port over HTTP. Its time is bounded by the boundary that calls it."""

    def __init__(
        self,
        url: str,
        *,
        token: str | None,
        min_confidence: float,
        transport: httpx2.AsyncBaseTransport | None = None,
    ) -> None:
        if not 0 <= min_confidence <= 1:
            raise ValueError("the lowest confidence is between 0 and 1")
        self._url = url
        self._min_confidence = min_confidence
        headers = {"accept": "application/json", "accept-encoding": "identity", "content-type": "application/json"}
        if token is not None:
            headers["authorization"] = f"Bearer {token}"
        self._client = httpx2.AsyncClient(
            headers=headers,
            trust_env=False,
            follow_redirects=False,
            timeout=_TIMEOUT_S,
            limits=httpx2.Limits(max_connections=_CONNECTIONS, max_keepalive_connections=_CONNECTIONS),
            transport=transport,
        )

    async def classify(self, policy: Policy, intent: Intent) -> Classified | Deny:
        """Return the catalogue's classification, disputed if the classifier names another category of it.

        Raises: ClassifierUnreachable, ClassifierUnsure.
        """
        # 1. The catalogue first: it closes the open world of tool names.
        classified = policy.classify(intent)
        if not isinstance(classified, Classified):
            return classified
        # 2. The classifier.
        answer = await self._ask(policy, intent, classified)
        # 3. Compare.
        if answer.category == classified.category:
            return classified
        dispute = Dispute(
            category=answer.category, confidence_percent=int(answer.confidence * 100), version=answer.version
        )
        return policy.disputed(classified, dispute)

    async def check(self, policy: Policy) -> None:
        """Return if the classifier knows the category of the catalogue's first action.

        Raises: ClassifierUnreachable, ClassifierUnsure, WrongAnswer.
        """
        known = policy.known_answer()
        if known is None:
            return
        intent, category = known
        answer = await self._ask(policy, intent, None)
        if answer.category != category:
            raise WrongAnswer("the classifier's canary has another category than the catalogue's")

    async def close(self) -> None:
        """Close the connections."""
        await self._client.aclose()

    async def _ask(self, policy: Policy, intent: Intent, classified: Classified | None) -> _Answer:
        answer = _read(await self._post(_question(policy, intent, classified)))
        if not policy.has_category(answer.category):
            raise ClassifierUnsure("the classifier named a category that the catalogue does not have")
        if answer.confidence < self._min_confidence:
            raise ClassifierUnsure("the classifier is not confident enough")
        return answer

    async def _post(self, question: bytes) -> bytes:
        body = bytearray()
        try:
            async with self._client.stream("POST", self._url, content=question) as response:
                if response.status_code in _ABOUT_THE_REQUEST:
                    raise ClassifierUnsure(f"the classifier answered {response.status_code}")
                if response.status_code != _OK:
                    raise ClassifierUnreachable(f"the classifier answered {response.status_code}")
                if response.headers.get("content-encoding", "identity") != "identity":
                    raise ClassifierUnreachable("the classifier's answer is compressed")
                async for part in response.aiter_raw():
                    body += part
                    if len(body) > MAX_ANSWER_BYTES:
                        raise ClassifierUnreachable(f"the answer is larger than {MAX_ANSWER_BYTES} bytes")
        except (httpx2.HTTPError, httpx2.StreamError, OSError) as error:
            # The kind alone: a message may quote what was sent.
            raise ClassifierUnreachable(type(error).__name__) from error
        return bytes(body)


def _question(policy: Policy, intent: Intent, classified: Classified | None) -> bytes:
    """Return the request's body. Personal parameters stay here."""
    personal = () if classified is None else policy.logged(intent, classified).personal
    parameters: dict[str, JSON] = {name: value for name, value in intent.parameters.items() if name not in personal}
    question: dict[str, JSON] = {
        "action": intent.action,
        "resource": {"type": intent.resource.type, "id": intent.resource.id},
        "parameters": parameters,
        "executor": intent.executor if classified is None else classified.executor,
        "context": {
            "environment": intent.context.environment if classified is None else classified.environment,
            "model": intent.context.model,
        },
    }
    return json.dumps(question, allow_nan=False).encode("ascii")


def _read(body: bytes) -> _Answer:
    try:
        document = strict_json.loads(body)
    except MalformedJSON as error:
        raise ClassifierUnreachable("the answer is not JSON") from error
    if not isinstance(document, dict) or not {"category", "confidence"} <= document.keys() <= _MEMBERS:
        raise ClassifierUnreachable("the answer has not the members `category`, `confidence` and, maybe, `version`")
    category, confidence, version = document["category"], document["confidence"], document.get("version")
    if not isinstance(category, str):
        raise ClassifierUnreachable("`category` is not a string")
    if isinstance(confidence, bool) or not isinstance(confidence, int | float) or not 0 <= confidence <= 1:
        raise ClassifierUnreachable("`confidence` is not a number from 0 to 1")
    if version is not None and not (
        isinstance(version, str) and 0 < len(version) <= _MAX_VERSION and version.isascii() and version.isprintable()
    ):
        raise ClassifierUnreachable(f"`version` is not a printable ASCII text of at most {_MAX_VERSION} characters")
    return _Answer(category=category, confidence=float(confidence), version=version)


_MEMBERS: Final = {"category", "confidence", "version"}
