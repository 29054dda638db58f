"""`python -m vbackup` is the `vbackup` command."""

from __future__ import annotations

from vbackup.cli.main import main

if __name__ == "__main__":
    main()
