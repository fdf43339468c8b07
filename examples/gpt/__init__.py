"""A byte-level GPT that branches: one stable run, a cooldown whenever it is wanted."""
