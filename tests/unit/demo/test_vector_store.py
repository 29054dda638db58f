"""The application's client of Qdrant: threads share nothing that one of them could close."""

from __future__ import annotations

import threading

from vbackup.demo.vector_store import VectorStore


def test_every_thread_has_connections_of_its_own() -> None:
    store = VectorStore("http://127.0.0.1:9", "documents")
    found = [store._client]
    thread = threading.Thread(target=lambda: found.append(store._client))
    thread.start()
    thread.join()

    assert store._client is found[0]
    assert found[1] is not found[0]
    store.close()
    assert all(client.is_closed for client in found)
