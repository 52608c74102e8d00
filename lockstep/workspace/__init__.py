"""The workspace: its health, its containers, new models, upgrades."""
