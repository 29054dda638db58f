"""The seams between the engine and the world: small protocols that adapters fulfil.

The engine and the repository know these and nothing else. Every method raises
`vbackup.errors` only; drivers' own exceptions never cross.
"""

from __future__ import annotations

from vbackup.ports.cache import Cache
from vbackup.ports.discovery import KeyCatalog, KeyColumn, PointSampler, SampledRow
from vbackup.ports.points import (
    CollectionFacts,
    PointReader,
    PointSource,
    PointStoreFacts,
    PointTarget,
    ShardRef,
    ShardSpool,
)
from vbackup.ports.progress import Clock, Reporter, Step
from vbackup.ports.records import (
    CandidateWatermark,
    DumpStream,
    NoRoom,
    RecordSource,
    RecordTarget,
    RowHold,
    RowReader,
    RowView,
)
from vbackup.ports.repository import BackupWriter, LeaseName, Repository, StreamShape
from vbackup.ports.storage import Buffer, LockingStore, ObjectStat, ObjectStore

__all__ = [
    "BackupWriter",
    "Buffer",
    "Cache",
    "CandidateWatermark",
    "Clock",
    "CollectionFacts",
    "DumpStream",
    "KeyCatalog",
    "KeyColumn",
    "LeaseName",
    "LockingStore",
    "NoRoom",
    "ObjectStat",
    "ObjectStore",
    "PointReader",
    "PointSampler",
    "PointSource",
    "PointStoreFacts",
    "PointTarget",
    "RecordSource",
    "RecordTarget",
    "Reporter",
    "Repository",
    "RowHold",
    "RowReader",
    "RowView",
    "SampledRow",
    "ShardRef",
    "ShardSpool",
    "Step",
    "StreamShape",
]
