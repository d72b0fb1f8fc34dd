"""The rollout controller: ledger, guard, evidence, and what the gateways are told."""
