"""How often a threshold of escalation keeps what it promises."""
