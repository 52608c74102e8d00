"""Settings: what a recipe may say, and reading one."""
