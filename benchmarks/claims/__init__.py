"""The papers' claims, tested on a model that anyone can train."""
