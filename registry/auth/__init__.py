"""Who are you, and may you: identities, the stores that vouch for them, and the rules."""
