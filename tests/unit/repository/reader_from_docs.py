"""Restores one artifact with nothing but docs/format.md: no vbackup code is imported here."""

from __future__ import annotations

import hashlib
import json
import os
import struct
import sys
from pathlib import Path
from typing import Any

import zstandard
from blake3 import blake3
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

Entry = tuple[bytes, int, int, int, int, int, int]


def keyed(key: bytes, data: bytes) -> bytes:
    return blake3(data, key=key).digest()


class Repository:
    def __init__(self, root: Path, passphrase: str | None) -> None:
        self.root = root
        raw = (root / "vbackup.json").read_bytes()
        self.header = json.loads(raw)
        assert (self.header["format"], self.header["version"]) == ("vbackup repository", 1)
        key = self.repository_key(passphrase)
        blank = raw.replace(self.header["mac"].encode(), b"0" * 64)
        assert keyed(keyed(key, b"vbackup config"), blank).hex() == self.header["mac"]
        self.chunk_key = keyed(key, b"vbackup chunk ids")
        self.data_key = keyed(key, b"vbackup data")
        self.chunks: dict[bytes, Entry] = {}
        for path in root.glob("index/*"):
            self.chunks |= self.index(path)

    def repository_key(self, passphrase: str | None) -> bytes:
        if self.header["encryption"] == "none":
            return bytes.fromhex(self.header["key"])
        for slot in self.header["slots"]:
            salt, wrapped = bytes.fromhex(slot["salt"]), bytes.fromhex(slot["wrapped"])
            key = hashlib.scrypt(
                (passphrase or "").encode(),
                salt=salt,
                n=slot["n"],
                r=slot["r"],
                p=slot["p"],
                maxmem=2**30,
                dklen=32,
            )
            try:
                return AESGCM(key).decrypt(wrapped[:12], wrapped[12:], b"vbackup key slot 1")
            except InvalidTag:
                continue
        raise SystemExit("wrong passphrase")

    def unseal(self, purpose: bytes, name: bytes, sealed: bytes, bound: bytes) -> bytes:
        key = keyed(self.data_key, purpose + b"\0" + name)
        if self.header["encryption"] == "passphrase":
            return AESGCM(key).decrypt(sealed[:12], sealed[12:], bound)
        data, tag = sealed[:-16], sealed[-16:]
        assert keyed(key, struct.pack("<Q", len(bound)) + bound + data)[:16] == tag
        return data

    def small(self, path: Path, kind: bytes, name: bytes) -> bytes:
        raw = path.read_bytes()
        head = raw[:32]
        assert head[:8] == b"VBAK\x01" + kind + b"\0\0"
        frame = self.unseal(kind, name + b"\0" + head[16:32], raw[32:], head)
        content = zstandard.decompress(frame)
        assert len(content) == struct.unpack("<Q", head[8:16])[0]
        return content

    def index(self, path: Path) -> dict[bytes, Entry]:
        raw, at = self.small(path, b"I", b"index"), 0
        found: dict[bytes, Entry] = {}
        while at < len(raw):
            pack, _, length = struct.unpack_from("<32sQI", raw, at)
            found |= self.table(pack, raw[at + 44 : at + 44 + length])
            at += 44 + length
        return found

    def table(self, pack: bytes, raw: bytes) -> dict[bytes, Entry]:
        blobs, chunks = struct.unpack_from("<II", raw)
        at, found = 8 + 17 * blobs, dict[bytes, Entry]()
        for offset, stored, content, count, codec in struct.iter_unpack("<IIIIB", raw[8:at]):
            start = 0
            for _ in range(count):
                chunk, length = struct.unpack_from("<16sI", raw, at)
                found[chunk] = (pack, offset, stored, content, codec, start, length)
                at, start = at + 20, start + length
            assert start == content
        assert len(found) <= chunks
        assert at == len(raw)
        return found

    def chunk(self, chunk: bytes) -> bytes:
        pack, offset, stored, content, codec, start, length = self.chunks[chunk]
        name = pack.hex()
        with (self.root / "packs" / name[:2] / name).open("rb") as file:
            file.seek(offset)
            blob = file.read(stored)
        payload = self.unseal(b"blob", blob[:16], blob[16:], struct.pack("<BI", codec, content))
        data = self.expand(payload, codec, content)
        assert len(data) == content
        data = data[start : start + length]
        assert keyed(self.chunk_key, data)[:16] == chunk
        return data

    def expand(self, payload: bytes, codec: int, length: int) -> bytes:
        if codec == 0:
            return payload
        if codec == 1:
            return zstandard.decompress(payload)
        stride = payload[0]
        at, content = 1 + 4 * stride, bytearray(length)
        for k, stored in enumerate(struct.unpack_from(f"<{stride}I", payload, 1)):
            plane, plain = payload[at : at + stored], len(range(k, length, stride))
            content[k::stride] = plane if stored == plain else zstandard.decompress(plane)
            at += stored
        return bytes(content)

    def read(self, chunk: bytes, depth: int) -> bytes:
        content = self.chunk(chunk)
        if depth == 0:
            return content
        return b"".join(
            self.read(entry, depth - 1) for entry, _ in struct.iter_unpack("<16sQ", content)
        )

    def artifact(self, backup: str, name: str) -> bytes:
        path = self.root / "backups" / backup / "manifest"
        manifest = json.loads(self.small(path, b"M", backup.encode()))
        found: dict[str, Any] = next(
            dump["artifact"]
            for dump in manifest["postgres"]["dumps"]
            if dump["artifact"]["name"] == name
        )
        data = b"".join(self.read(bytes.fromhex(root), found["depth"]) for root in found["root"])
        assert len(data) == found["length"]
        assert blake3(data).hexdigest() == found["blake3"]
        return data


if __name__ == "__main__":
    directory, backup_id, artifact = sys.argv[1:]
    repository = Repository(Path(directory), os.environ.get("PASSPHRASE"))
    sys.stdout.buffer.write(repository.artifact(backup_id, artifact))
