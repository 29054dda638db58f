"""The command line: one module a verb, which reads like a runbook; prints, decides nothing.

Importing `vbackup.cli.main` must stay cheap: commands are loaded when they are called, and
drivers when a command needs them.
"""
