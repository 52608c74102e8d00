"""The networks that speed is measured with, as a project of their own."""
