-- What the drain needs to lease rows of any waiting state, and the orders in which it and operators read them.

ALTER TABLE queue_entries
    -- The state a lease returns to. An intent leased only to be expired goes back where it was, never to be decided.
    ADD COLUMN leased_from text NOT NULL DEFAULT 'waiting'
        CHECK (leased_from IN ('waiting', 'held', 'parked', 'claimable')),
    ADD COLUMN leased_by text;

-- Every tenth slot goes to the oldest of all lanes.
CREATE INDEX queue_oldest ON queue_entries (enqueued_at, intent_id) WHERE state = 'waiting';
-- Operators read all states in the order of `queue_ready`; its counterpart holds the few that are not in line.
CREATE INDEX queue_others ON queue_entries (lane, rank_at, intent_id) WHERE state <> 'waiting';
-- Late allows that nobody picked up.
CREATE INDEX intents_claim_by ON intents (claim_by) WHERE status = 'claimable';
