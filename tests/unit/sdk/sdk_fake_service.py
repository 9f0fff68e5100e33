"""A fake of the service's contract, as far as agents and executors see it. It keeps the contract unless told to lie."""

from __future__ import annotations

import json
import secrets
import time
from dataclasses import dataclass, field, replace

import httpx2
import jwt
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from holdfast import strict_json
from holdfast.errors import InvalidIntent, TokenRejected
from holdfast.exchange import Answer, Lost
from holdfast.intent import Action, Intent
from holdfast.reasons import ReasonCode, http_status
from holdfast.token import ALG, TYP, Claims, VerifyKey, check_claims, verify_signature

BASE_URL = "https://holdfast.test"
AGENT_KEY = "hfa_" + "a" * 43
EXECUTOR_KEY = "hfx_" + "x" * 43
AGENT = "support-bot"
EXECUTOR = "payments-api"


class SigningKey:
    def __init__(self):
        self.private = Ed25519PrivateKey.generate()
        self.public = VerifyKey.from_public_bytes(self.private.public_key().public_bytes_raw())

    def sign(self, payload: dict, **headers) -> str:
        header = {"alg": ALG, "kid": self.public.kid, "typ": TYP} | headers
        head = jwt.utils.base64url_encode(json.dumps(header, separators=(",", ":")).encode())
        body = jwt.utils.base64url_encode(json.dumps(payload, separators=(",", ":")).encode())
        signature = jwt.utils.base64url_encode(self.private.sign(head + b"." + body))
        return (head + b"." + body + b"." + signature).decode()


@dataclass
class Stored:
    intent_id: str
    intent: Intent
    status: str = "granted"
    reason_code: str = "ALLOWED"
    token: str | None = None


@dataclass
class FakeService:
    """`verdict` is the reason code of the next submissions; `lies` replace answers, by path suffix, once each."""

    verdict: ReasonCode = ReasonCode.ALLOWED
    queued: bool = True
    lifetime_s: int = 60
    issuer: str = BASE_URL
    key: SigningKey = field(default_factory=SigningKey)
    now: object = time.time
    intents: dict[str, Stored] = field(default_factory=dict)
    by_key: dict[str, str] = field(default_factory=dict)
    consumed: set[tuple[str, str]] = field(default_factory=set)
    revoked: set[str] = field(default_factory=set)
    outcomes: list[dict] = field(default_factory=list)
    seen: list[httpx2.Request] = field(default_factory=list)
    lies: dict[str, list] = field(default_factory=dict)
    claims_with: dict = field(default_factory=dict)
    on_poll: list = field(default_factory=list)

    # --- how a test drives it ---

    def lie(self, suffix: str, *answers) -> None:
        """Answer the next requests to paths with this suffix with `answers`: a response, an error, or a callable."""
        self.lies.setdefault(suffix, []).extend(answers)

    def mint(self, intent: Intent, *, intent_id: str | None = None, key: SigningKey | None = None, **changes) -> str:
        now = int(self.now())
        executor = intent.executor or EXECUTOR
        action = Action(action=intent.action, resource=intent.resource, parameters=intent.parameters, executor=executor)
        claims = Claims(
            iss=self.issuer,
            aud=executor,
            sub=AGENT,
            txn=intent_id or f"int_{secrets.token_hex(13)}",
            jti=f"jti_{secrets.token_hex(16)}",
            iat=now,
            nbf=now,
            exp=now + self.lifetime_s,
            env="production",
            action=intent.action,
            act_hash=action.digest(),
            category="finance.refund",
            risk=42,
            mode="normal",
            pol="sha256:" + "0" * 64,
            rcp="str_" + "0" * 26 + ":7:" + "a" * 64,
        )
        return (key or self.key).sign(replace(claims, **(self.claims_with | changes)).to_json())

    def transport(self) -> httpx2.MockTransport:
        return httpx2.MockTransport(self.handle)

    # --- what it answers ---

    def handle(self, request: httpx2.Request) -> httpx2.Response:
        self.seen.append(request)
        for suffix, answers in self.lies.items():
            if request.url.path.endswith(suffix) and answers:
                answer = answers.pop(0)
                answer = answer(request) if callable(answer) else answer
                if isinstance(answer, Exception):
                    raise answer
                return answer
        return self._honest(request)

    def _honest(self, request: httpx2.Request) -> httpx2.Response:
        path = request.url.path
        if path == "/.well-known/jwks.json":
            return httpx2.Response(200, json={"keys": [self.key.public.to_jwk()]})
        key = AGENT_KEY if path.startswith("/v1/intents") else EXECUTOR_KEY
        if request.headers.get("authorization") != f"Bearer {key}":
            return problem(401, "UNAUTHENTICATED")
        if path.startswith("/v1/intents"):
            return self._intents(request, path.removeprefix("/v1/intents").strip("/"))
        if path == "/v1/tokens/consume":
            return self._consume(strict_json.loads(request.content))
        if path.startswith("/v1/tokens/") and path.endswith("/outcome"):
            self.outcomes.append({"jti": path.split("/")[3], **strict_json.loads(request.content)})
            return httpx2.Response(200, json={"recorded": True})
        return problem(404, "NOT_FOUND")

    def _intents(self, request: httpx2.Request, rest: str) -> httpx2.Response:
        if request.method == "POST" and not rest:
            return self._submit(request)
        intent_id, _, verb = rest.partition("/")
        stored = self.intents.get(intent_id)
        if stored is None:
            return problem(404, "NOT_FOUND")
        if verb == "claim":
            if stored.status == "claimable":
                stored.status, stored.reason_code = "granted", "ALLOWED"
                stored.token = self.mint(stored.intent, intent_id=intent_id)
            if stored.status != "granted":
                return problem(409, "NOT_CLAIMABLE")
            return httpx2.Response(200, json=self._envelope(stored, token=True))
        if request.method == "DELETE":
            stored.status, stored.reason_code = "cancelled", "CANCELLED"
        elif self.on_poll:
            step = self.on_poll.pop(0)
            if isinstance(step, Exception):
                raise step
            stored.status, stored.reason_code = step
        return httpx2.Response(200, json=self._envelope(stored))

    def _submit(self, request: httpx2.Request) -> httpx2.Response:
        try:
            intent = Intent.from_json(strict_json.loads(request.content))
        except InvalidIntent as error:
            return problem(400, "REQUEST_MALFORMED", str(error))
        key = request.headers.get("idempotency-key")
        if key in self.by_key:
            stored = self.intents[self.by_key[key]]
        else:
            stored = Stored(f"int_{secrets.token_hex(13)}", intent, reason_code=self.verdict.value)
            stored.status = self._status()
            if stored.status == "granted":
                stored.token = self.mint(intent, intent_id=stored.intent_id)
            self.intents[stored.intent_id] = stored
            self.by_key[key] = stored.intent_id
        code = ReasonCode(stored.reason_code)
        headers = {"retry-after": "7"} if http_status(code) in (429, 503) else {}
        return httpx2.Response(http_status(code), json=self._envelope(stored, token=True), headers=headers)

    def _status(self) -> str:
        if self.verdict is ReasonCode.ALLOWED:
            return "granted"
        if self.verdict is ReasonCode.APPROVAL_REQUIRED:
            return "held"
        if http_status(self.verdict) == 503 and self.verdict is not ReasonCode.QUEUE_FULL:
            return "queued" if self.queued else "unqueued"
        return "denied"

    def _envelope(self, stored: Stored, *, token: bool = False) -> dict:
        decision = {"granted": "allow", "claimable": "allow", "held": "hold"}.get(stored.status, "deny")
        return {
            "intent_id": stored.intent_id,
            "status": stored.status,
            "decision": decision,
            "reason_code": stored.reason_code,
            "detail": "as decided",
            "token": stored.token if token else None,
            "retry_after": None,
        }

    def _consume(self, body: dict) -> httpx2.Response:
        try:
            claims = verify_signature(body["token"], [self.key.public])
            check_claims(
                claims,
                issuer=self.issuer,
                audience=EXECUTOR,
                environments=None,
                now=self.now(),
                max_lifetime_s=3600,
            )
        except TokenRejected as error:
            return problem(403 if error.code == "TOKEN_MISMATCH" else 401, error.code)
        wanted = Intent.from_json({name: body[name] for name in ("action", "resource", "parameters")})
        action = Action(action=wanted.action, resource=wanted.resource, parameters=wanted.parameters, executor=EXECUTOR)
        if action.digest() != claims.act_hash:
            return problem(403, "TOKEN_MISMATCH")
        if claims.jti in self.revoked:
            return problem(403, "TOKEN_REVOKED")
        if (claims.iss, claims.txn) in self.consumed:
            return problem(409, "TOKEN_CONSUMED")
        self.consumed.add((claims.iss, claims.txn))
        return httpx2.Response(200, json={"consumed": True, "txn": claims.txn, "jti": claims.jti, "sub": claims.sub})


def problem(status: int, code: str, detail: str = "no") -> httpx2.Response:
    body = {"type": "about:blank", "status": status, "reason_code": code, "detail": detail}
    return httpx2.Response(status, json=body, headers={"content-type": "application/problem+json"})


class ManualOutside:
    """An outside whose clocks stand still until a test moves them, and whose pauses take no time."""

    def __init__(self, service: FakeService, credential: str):
        self._service = service
        self._credential = credential
        self.epoch = float(int(time.time()))
        self.elapsed = 0.0
        self.paused: list[float] = []
        service.now = self.now

    async def exchange(self, request):
        headers = dict(request.headers)
        if request.credential:
            headers["authorization"] = f"Bearer {self._credential}"
        try:
            response = self._service.handle(
                httpx2.Request(request.method, BASE_URL + request.path, content=request.body, headers=headers)
            )
        except httpx2.HTTPError as error:
            return Lost(type(error).__name__)
        return Answer(
            status=response.status_code, body=response.content, retry_after=response.headers.get("retry-after")
        )

    async def pause(self, seconds):
        self.paused.append(seconds)
        self.elapsed += seconds

    async def call(self, function, *args, **kwargs):
        return function(*args, **kwargs)

    def lock(self):
        return Unlocked()

    def now(self):
        return self.epoch + self.elapsed

    def monotonic(self):
        return self.elapsed

    def jitter(self):
        return 1.0


class Unlocked:
    def locked(self):
        return False

    async def __aenter__(self):
        return None

    async def __aexit__(self, *_):
        return None
