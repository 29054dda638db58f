"""Commands: one module a verb, each reads like its runbook. Only this room prints."""
