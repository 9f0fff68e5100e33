"""The policies of these tests: a small house of notes, money and doom."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

CATALOG = """
version: 1
categories:
  note.read: {description: Read a note, impact: low, effect: read, reversible: true}
  note.write: {description: Change a note, impact: medium, effect: internal_write, reversible: true}
  money.move: {description: Move money, impact: high, effect: external, reversible: false}
  doom: {description: The end, impact: critical, effect: external, reversible: false}
executors:
  notes-api: {description: Notes}
  bank-api: {description: Money}
  brief-api: {description: Whose tokens live for a moment, max_token_seconds: 2}
  doom-api: {description: The end}
actions:
  note.read: {category: note.read, executor: notes-api, resource: note}
  note.peek: {category: note.read, executor: brief-api, resource: note}
  note.secret: {category: note.read, executor: notes-api, resource: note, proof_of_possession: true}
  note.hide: {category: note.read, executor: notes-api, resource: note}
  note.write:
    category: note.write
    executor: notes-api
    resource: note
    parameters:
      text: {type: string, required: true, max_length: 200, log: true}
      weight: {type: decimal, min: "0.0", max: "1.0", log: true}
      tags: {type: array, items: {type: string, max_length: 20}, max_length: 5, log: true}
      pinned: {type: boolean, log: true}
      author: {type: object, personal: true, fields: {email: {type: string, max_length: 100}}}
    additional_parameters: false
  money.refund:
    category: money.move
    executor: bank-api
    resource: payment
    parameters:
      amount_cents: {type: integer, required: true, min: 1, max: 100000000, log: true}
  doom.launch: {category: doom, executor: doom-api, resource: "*"}
"""

RULES = """
@id("big-refunds") @reason("refunds over 500.00 need finance") @requires_approval("finance")
forbid (principal, action == Action::"money.refund", resource) when { context.parameters.amount_cents > 50000 };

@id("no-huge-refunds") @reason("refunds over 10,000.00 are never automatic")
forbid (principal, action == Action::"money.refund", resource) when { context.parameters.amount_cents > 1000000 };
"""

SETTINGS = """
version: 1
environment: production
approvals: {{roles: {{finance: [alice, bob]}}}}
queue: {{max_per_agent: {max_per_agent}}}
break_glass:
  - {{name: rescue, categories: [money.move], agents: [alpha], environments: [production], people: 2, max_minutes: 30,
     max_uses: 3, review_hours: 24}}
  - {{name: peek, categories: [note.read], agents: [alpha, beta], environments: [production], people: 1, max_minutes: 5,
     max_uses: 100, review_hours: 24}}
  - {{name: drill, categories: [note.write], agents: [gamma], environments: [production], people: 2, max_minutes: 5,
     max_uses: 1, review_hours: 24}}
"""

_AGENT = """
apiVersion: holdfast.dev/v1
kind: Agent
metadata: {{name: {name}}}
spec:
  tools: [{tools}]
"""

_EVERYTHING = '"note.*", "money.*", "doom.*"'

#: Agents by name, with what their manifests say beyond the name. `metered` has a limit that nobody reaches.
AGENTS = {
    "alpha": _EVERYTHING,
    "beta": _EVERYTHING,
    "gamma": _EVERYTHING,
    "filler": _EVERYTHING,
    "reader": '"note.*"]\n  policies: [{effect: allow, resource: "note/*", action: note.read}',
    "limited": '"note.read"]\n  rateLimit: {maxCallsPerMinute: 3',
    "metered": '"note.*"]\n  rateLimit: {maxCallsPerMinute: 1000000',
    "thrifty": '"note.read"]\n  rateLimit: {maxTokensPerDay: 1000',
}
_CLOSING = {"limited": "}", "metered": "}", "thrifty": "}"}


def write_bundle(directory: Path, *, max_per_agent: int) -> Path:
    """Write the bundle and return where it lies."""
    (directory / "agents").mkdir(parents=True)
    (directory / "rules").mkdir()
    (directory / "catalog.yaml").write_text(CATALOG)
    (directory / "rules" / "money.cedar").write_text(RULES)
    (directory / "holdfast.yaml").write_text(SETTINGS.format(max_per_agent=max_per_agent))
    for name, tools in AGENTS.items():
        manifest = _AGENT.format(name=name, tools=tools)
        if name in _CLOSING:
            manifest = manifest.rstrip().removesuffix("]") + _CLOSING[name] + "\n"
        (directory / "agents" / f"{name}.yaml").write_text(manifest)
    return directory
