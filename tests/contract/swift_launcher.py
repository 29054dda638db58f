"""All of OpenStack Swift in one process, with its S3 API: run by an interpreter that has swift.

Usage: swift_launcher.py DIRECTORY PORT USER KEY
"""

from __future__ import annotations

import importlib
import logging
import sys
from pathlib import Path
from typing import Any

import eventlet  # type: ignore[import-not-found]  # installed beside swift only
import eventlet.wsgi  # type: ignore[import-not-found]
import swift.common.utils  # type: ignore[import-not-found]

RINGED = ("account", "container", "object")

_SWIFT = """
[swift-hash]
swift_hash_path_prefix = vbackup
swift_hash_path_suffix = tests
[storage-policy:0]
name = gold
default = yes
"""

_BACKEND = """
[DEFAULT]
devices = {root}/devices
swift_dir = {root}
mount_check = false
user = root
log_level = ERROR
[app:main]
use = egg:swift#{kind}
"""

_PROXY = """
[DEFAULT]
swift_dir = {root}
user = root
log_level = ERROR
[pipeline:main]
pipeline = catch_errors listing_formats s3api tempauth bulk slo dlo proxy-server
[filter:catch_errors]
use = egg:swift#catch_errors
[filter:listing_formats]
use = egg:swift#listing_formats
[filter:s3api]
use = egg:swift#s3api
location = us-east-1
auth_pipeline_check = false
[filter:tempauth]
use = egg:swift#tempauth
user_{user} = {key} .admin
[filter:bulk]
use = egg:swift#bulk
[filter:slo]
use = egg:swift#slo
[filter:dlo]
use = egg:swift#dlo
[app:proxy-server]
use = egg:swift#proxy
account_autocreate = true
allow_account_management = true
"""


def main(root: Path, port: int, user: str, key: str) -> None:
    (root / "devices/d1").mkdir(parents=True, exist_ok=True)
    (root / "swift.conf").write_text(_SWIFT)
    # The path is fixed in swift; it is read when its other modules are imported.
    swift.common.utils.SWIFT_CONF_FILE = str(root / "swift.conf")
    wsgi = importlib.import_module("swift.common.wsgi")
    swift.common.utils.monkey_patch()
    listeners = {kind: eventlet.listen(("127.0.0.1", 0)) for kind in RINGED}
    for kind, listener in listeners.items():
        _save_ring(root / f"{kind}.ring.gz", listener.getsockname()[1])
    for kind, listener in listeners.items():
        config = root / f"{kind}.conf"
        config.write_text(_BACKEND.format(root=root, kind=kind))
        _serve(listener, wsgi.loadapp(str(config)))
    config = root / "proxy.conf"
    config.write_text(_PROXY.format(root=root, user=user.replace(":", "_"), key=key))
    front = eventlet.listen(("127.0.0.1", port))
    _serve(front, wsgi.loadapp(str(config))).wait()


def _save_ring(path: Path, port: int) -> None:
    builder = importlib.import_module("swift.common.ring").RingBuilder(4, 1, 0)
    place = {"id": 0, "region": 1, "zone": 1, "device": "d1", "weight": 1.0}
    builder.add_dev({**place, "ip": "127.0.0.1", "port": port})
    builder.rebalance()
    builder.get_ring().save(str(path))


def _serve(listener: Any, app: object) -> Any:
    protocol = importlib.import_module("swift.common.wsgi").SwiftHttpProtocol
    log = logging.getLogger("wsgi")
    return eventlet.spawn(
        eventlet.wsgi.server, listener, app, log, protocol=protocol, log_output=False
    )


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3], sys.argv[4])
