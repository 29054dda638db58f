"""S3 over a network and servers that misbehave: loud and classified, or a success after retry."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

from tests.faults import ManualClock
from tests.unit.storage.scripted_s3 import (
    Answer,
    DeafServer,
    ScriptedServer,
    announced,
    ok,
    page,
    reset,
    reset_midway,
    scripted_server,
    silence,
    status,
    trickle,
    truncated,
)
from vbackup.clock import SystemClock
from vbackup.config import RepositoryConfig
from vbackup.errors import (
    AlreadyExists,
    Denied,
    Failed,
    NotFound,
    Refused,
    Unreachable,
    Usage,
    VbackupError,
)
from vbackup.ports import ObjectStore
from vbackup.storage.retrying import RetryingStore, RetryPolicy
from vbackup.storage.s3 import S3Store, Upkeep
from vbackup.storage.s3_client import connect
from vbackup.storage.s3_conditions import RACERS

if TYPE_CHECKING:
    from types_boto3_s3 import S3Client

SECRET = "wJalrXUtnFEMI-scripted-secret"
BODY = bytes(range(256)) * 400


@pytest.fixture(scope="module")
def running() -> Iterator[ScriptedServer]:
    with scripted_server() as server:
        yield server


@pytest.fixture
def server(running: ScriptedServer) -> ScriptedServer:
    running.script.clear()
    running.asked.clear()
    return running


def _config(url: str, **more: object) -> RepositoryConfig:
    return RepositoryConfig.model_validate(
        {
            "url": "s3://bucket/p",
            "endpoint_url": url,
            "access_key_id": "AKIAIOSFODNN7EXAMPLE",
            "secret_access_key": SECRET,
            "connect_timeout": 1.0,
            "read_timeout": 0.4,
            **more,
        }
    )


@pytest.fixture(scope="module")
def client(running: ScriptedServer) -> S3Client:
    """One for all tests: making it costs more than most of them."""
    return connect(_config(running.url), "bucket")


@pytest.fixture
def store(client: S3Client, server: ScriptedServer) -> S3Store:
    return S3Store(client, "bucket", "p", SystemClock(), stall_window=0.4)


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def retrying(store: S3Store, clock: ManualClock) -> RetryingStore:
    return RetryingStore(store, clock, RetryPolicy(retries=3))


@pytest.mark.parametrize(
    "answer",
    [
        reset,
        truncated(BODY, 1000),
        truncated(BODY, 0),
        reset_midway(BODY, 5000),
        announced(len(BODY) + 1, BODY),
        trickle,
        silence,
        status(503, "SlowDown"),
        status(500, "InternalError"),
        status(502),
        ok(b"", code=504),
        status(400, "RequestTimeout"),
        status(429, "TooManyRequests"),
    ],
    ids=lambda answer: answer.__qualname__.split(".")[0],
)
def test_a_broken_read_is_unreachable_and_a_retry_succeeds(
    server: ScriptedServer, store: S3Store, retrying: RetryingStore, answer: Answer
) -> None:
    server.script += [answer]
    with pytest.raises(Unreachable) as caught:
        store.get("a")
    assert caught.value.retryable
    assert "s3://bucket/p/a" in caught.value.message
    assert SECRET not in caught.value.message
    server.script += [answer, ok(BODY)]
    assert retrying.get("a") == BODY
    assert len(server.asked) == 3


@pytest.mark.parametrize(
    "answer", [reset, silence, status(503, "SlowDown"), status(409, "ConditionalRequestConflict")]
)
def test_a_broken_write_is_unreachable_and_sends_everything_again(
    server: ScriptedServer, store: S3Store, retrying: RetryingStore, answer: Answer
) -> None:
    server.script += [answer]
    with pytest.raises(Unreachable):
        store.put("a", BODY)
    server.script += [answer, ok()]
    retrying.put("a", BODY)
    assert [asked.body for asked in server.asked] == [BODY] * 3


def test_an_upload_that_gets_stuck_times_out() -> None:
    with DeafServer() as deaf:
        client = connect(_config(f"http://127.0.0.1:{deaf.port}", connect_timeout=0.3), "bucket")
        store = S3Store(client, "bucket", "p", SystemClock(), stall_window=0.3)
        with pytest.raises(Unreachable, match="s3://bucket/p/a"):
            store.put("a", bytes(20_000_000))


def test_nobody_listens(clock: ManualClock) -> None:
    with DeafServer() as deaf:
        port = deaf.port
    client = connect(_config(f"http://127.0.0.1:{port}"), "bucket")
    retries: list[str] = []
    store = RetryingStore(
        S3Store(client, "bucket", "p", clock),
        clock,
        RetryPolicy(retries=2),
        on_retry=lambda retry: retries.append(retry.method),
    )
    with pytest.raises(Unreachable, match="Could not connect") as caught:
        store.stat("a")
    assert "endpoint_url" in caught.value.hint
    assert retries == ["stat", "stat"]


def test_tls_to_a_plain_server_is_not_retried(server: ScriptedServer) -> None:
    client = connect(_config(server.url.replace("http:", "https:")), "bucket")
    with pytest.raises(Failed) as caught:
        S3Store(client, "bucket", "p", SystemClock()).get("a")
    assert not caught.value.retryable
    assert "ca_file" in caught.value.hint


@pytest.mark.parametrize(
    ("code", "name", "kind", "hint"),
    [
        (403, "RequestTimeTooSkewed", Denied, "clock"),
        (400, "AuthorizationHeaderMalformed", Usage, "region"),
        (301, "PermanentRedirect", Usage, "region"),
        (400, "IllegalLocationConstraintException", Usage, "region"),
        (404, "NoSuchBucket", NotFound, "create the bucket"),
        (403, "InvalidAccessKeyId", Denied, "access_key_id"),
        (403, "SignatureDoesNotMatch", Denied, "access_key_id"),
        (400, "ExpiredToken", Denied, "log in again"),
        (403, "AccessDenied", Denied, "s3:PutObject"),
        (400, "EntityTooLarge", Usage, "pack_size"),
        (400, "InvalidStorageClass", Usage, "storage_class"),
        (501, "NotImplemented", Refused, "docs/storage.md"),
        (307, "TemporaryRedirect", Failed, "endpoint_url"),
        (418, "Whatever", Failed, ""),
    ],
)
def test_refusals_are_told_apart_and_not_retried(
    server: ScriptedServer,
    retrying: RetryingStore,
    code: int,
    name: str,
    kind: type[VbackupError],
    hint: str,
) -> None:
    server.script += [status(code, name, Location="http://127.0.0.1:9/elsewhere")] * 2
    with pytest.raises(VbackupError) as caught:
        retrying.put("a", b"x")
    assert type(caught.value) is kind
    assert hint in caught.value.hint
    assert not caught.value.retryable
    assert "s3://bucket/p/a" in caught.value.message


@pytest.mark.parametrize(("code", "kind"), [(403, Denied), (301, Usage), (503, Unreachable)])
def test_a_stat_has_only_the_status_to_go_by(
    server: ScriptedServer, store: S3Store, code: int, kind: type[VbackupError]
) -> None:
    server.script += [status(code)] * 3
    with pytest.raises(kind):
        store.stat("a")


def test_secrets_that_a_server_echoes_are_scrubbed(server: ScriptedServer, store: S3Store) -> None:
    echo = f"key AKIAIOSFODNN7EXAMPLE aws_secret_access_key={SECRET} token=abcdef"
    server.script += [status(403, "AccessDenied", echo)]
    with pytest.raises(Denied) as caught:
        store.put("a", b"x")
    for secret in ("IOSFODNN7EXAMPLE", SECRET, "abcdef"):
        assert secret not in caught.value.message


def test_a_range_that_was_not_asked_for_is_refused(server: ScriptedServer, store: S3Store) -> None:
    for wrong in ("bytes 0-9/100", "bytes 5-13/100", "nonsense"):
        server.script += [ok(b"0123456789", code=206, Content_Range=wrong)]
        with pytest.raises(Failed, match="cannot read"):
            store.get("a", 5, 10)


def test_a_server_that_ignores_ranges_is_cut_down(server: ScriptedServer, store: S3Store) -> None:
    server.script += [ok(b"0123456789"), ok(b"0123456789")]
    assert store.get("a", 5, 3) == b"567"
    assert store.get("a", 8) == b"89"


def test_a_range_sent_as_if_it_were_the_whole_is_believed(
    server: ScriptedServer, store: S3Store
) -> None:
    """`rclone serve s3` sends the range with status 200."""
    server.script += [ok(b"567", Content_Range="bytes 5-7/10")] * 2
    assert store.get("a", 5, 3) == b"567"
    with pytest.raises(Failed, match="cannot read"):
        store.get("a", 4, 3)


def test_a_truncated_range_is_detected(server: ScriptedServer, store: S3Store) -> None:
    server.script += [truncated(b"56789", 3, Content_Range="bytes 5-9/100")]
    with pytest.raises(Unreachable, match="3 of 5 bytes"):
        store.get("a", 5, 5)


def test_a_range_is_checked_against_the_request(server: ScriptedServer, store: S3Store) -> None:
    server.script += [ok(b"5678", code=206, Content_Range="bytes 5-8/9")]
    assert store.get("a", 5, 10) == b"5678"
    assert server.asked[0].headers["Range"] == "bytes=5-14"


def test_connections_are_reused(server: ScriptedServer, store: S3Store) -> None:
    ports: set[int] = set()

    def note(inner: Answer) -> Answer:
        def answer(handler: object) -> None:
            ports.add(handler.client_address[1])  # type: ignore[attr-defined]
            inner(handler)  # type: ignore[arg-type]

        return answer

    server.script += [note(ok(BODY)), note(ok()), note(page(["p/a"])), note(ok(BODY))]
    store.get("a")
    store.put("a", BODY)
    list(store.scan())
    store.get("a")
    assert len(ports) == 1


def test_a_page_that_fails_midway_starts_again_without_repeats(
    server: ScriptedServer, retrying: RetryingStore
) -> None:
    server.script += [
        page(["p/a", "p/b"], token="t"),
        status(503, "SlowDown"),
        page(["p/a", "p/b"], token="t"),
        page(["p/c"]),
    ]
    assert [found.key for found in retrying.scan()] == ["a", "b", "c"]
    assert "continuation-token=t" in server.asked[3].path


@pytest.mark.parametrize(
    "answers",
    [
        [page(["p/a"], token="missing")],
        [page(["p/a"], token="t"), page(["p/b"], token="t")],
        [page(["p/b", "p/a"])],
        [page(["p/b"], token="t"), page(["p/a"])],
    ],
    ids=["no token", "same token", "out of order", "out of order across pages"],
)
def test_a_list_that_cannot_be_trusted_fails(
    server: ScriptedServer, store: S3Store, answers: list[Answer]
) -> None:
    server.script += answers
    with pytest.raises(Failed):
        list(store.scan())


@pytest.mark.parametrize("body", [b"<ListBucketResult><Contents>", b"<html>console</html>"])
def test_answers_that_are_not_s3(server: ScriptedServer, store: S3Store, body: bytes) -> None:
    server.script += [status(500), ok(body)]
    with pytest.raises(Unreachable):
        list(store.scan())


def test_folder_markers_are_not_objects(server: ScriptedServer, store: S3Store) -> None:
    server.script += [page(["p/", "p/a/", "p/a/b"])]
    assert [found.key for found in store.scan()] == ["a/b"]


def test_keys_that_nobody_can_ask_for_are_not_listed(
    server: ScriptedServer, store: S3Store
) -> None:
    """Whoever can write one object could stop every command with it."""
    server.script += [page(["p/leases/../x", "p/leases//x", "p/leases/a"])]
    assert [found.key for found in store.scan()] == ["leases/a"]


def _deleted(*errors: tuple[str, str]) -> Answer:
    inner = "".join(
        f"<Error><Key>{key}</Key><Code>{code}</Code><Message>m</Message></Error>"
        for key, code in errors
    )
    return ok(f"<DeleteResult>{inner}</DeleteResult>".encode())


def test_errors_of_single_keys_in_a_bulk_delete_surface(
    server: ScriptedServer, store: S3Store
) -> None:
    server.script += [_deleted(("p/b", "InternalError"), ("p/c", "AccessDenied"))]
    with pytest.raises(Denied, match=r"2 of 3 objects, first s3://bucket/p/c") as caught:
        store.delete(["a", "b", "c"])
    assert not caught.value.retryable
    server.script += [_deleted(("p/b", "InternalError"))]
    with pytest.raises(Unreachable, match="p/b"):
        store.delete(["a", "b", "c"])
    server.script += [_deleted(("p/b", "NoSuchKey"))]
    store.delete(["a", "b", "c"])
    assert "Content-Md5" in {name.title() for name in server.asked[0].headers}


@pytest.mark.parametrize(
    "refusal", [status(501, "NotImplemented"), status(405), status(400, "MalformedXML")]
)
def test_without_bulk_deletes_keys_go_one_by_one(
    server: ScriptedServer, store: S3Store, refusal: Answer
) -> None:
    server.script += [refusal, ok(code=204), status(404, "NoSuchKey"), ok(code=204), ok(code=204)]
    store.delete(["a", "b"])
    store.delete(["c", "d"])
    assert [asked.method for asked in server.asked] == ["POST"] + ["DELETE"] * 4


def test_single_deletes_all_run_before_the_first_error_is_raised(
    server: ScriptedServer, store: S3Store
) -> None:
    server.script += [
        status(501, "NotImplemented"),
        status(403, "AccessDenied"),
        ok(code=204),
    ]
    with pytest.raises(Denied, match="s3://bucket/p/a"):
        store.delete(["a", "b"])
    assert len(server.asked) == 3


def test_object_lock_is_told_from_a_missing_permission(
    server: ScriptedServer, store: S3Store
) -> None:
    server.script += [status(403, "AccessDenied", "forbidden, the object is WORM protected")]
    with pytest.raises(Refused) as caught:
        store.delete(["a"])
    assert "retention" in caught.value.hint


# ------------------------------------------------------------------ conditions


TAKEN = status(412, "PreconditionFailed")
GONE = [ok(code=204), ok(code=204)]


def _race(winners: int) -> list[Answer]:
    return [ok()] * winners + [TAKEN] * (RACERS - winners)


def test_conditions_are_probed_once_and_the_probes_are_removed(
    server: ScriptedServer, store: S3Store
) -> None:
    server.script += [ok(), TAKEN, *_race(winners=1), *GONE]
    assert store.conditional
    assert store.conditional
    methods = [asked.method for asked in server.asked]
    assert methods == ["PUT"] * (2 + RACERS) + ["DELETE"] * 2
    assert {asked.path for asked in server.asked[:-2]} == {each.path for each in server.asked[-2:]}
    assert all(asked.headers["If-None-Match"] == "*" for asked in server.asked[:-2])
    server.script += [TAKEN]
    with pytest.raises(AlreadyExists):
        store.put("a", b"x", if_absent=True)
    assert server.asked[-1].method == "PUT"


@pytest.mark.parametrize(
    ("answers", "sends_header"),
    [
        ([ok(), ok()], True),
        ([ok(), TAKEN, *_race(winners=2)], True),
        ([status(501, "NotImplemented")], False),
        ([status(400, "InvalidArgument")], False),
    ],
    ids=["overwrites", "races", "501", "400"],
)
def test_where_conditions_do_not_hold_a_create_looks_first(
    server: ScriptedServer, store: S3Store, answers: list[Answer], *, sends_header: bool
) -> None:
    server.script += [*answers, *GONE]
    assert not store.conditional
    server.script += [status(404), ok()]
    store.put("a", b"x", if_absent=True)
    assert [asked.method for asked in server.asked[-2:]] == ["HEAD", "PUT"]
    assert ("If-None-Match" in server.asked[-1].headers) is sends_header
    server.script += [ok()]
    with pytest.raises(AlreadyExists):
        store.put("a", b"x", if_absent=True)
    assert server.asked[-1].method == "HEAD"


def test_probes_that_may_not_be_deleted_still_count(server: ScriptedServer, store: S3Store) -> None:
    refused = status(403, "AccessDenied")
    server.script += [ok(), TAKEN, *_race(winners=1), refused, refused]
    assert store.conditional


def test_racers_that_are_turned_away_have_not_won(server: ScriptedServer, store: S3Store) -> None:
    busy = [status(503, "SlowDown"), status(409, "ConditionalRequestConflict")]
    server.script += [ok(), TAKEN, *busy, *_race(winners=1)[:-2], *GONE]
    assert store.conditional


def test_a_probe_that_fails_is_not_taken_for_an_answer(
    server: ScriptedServer, store: S3Store, retrying: RetryingStore
) -> None:
    server.script += [status(403, "AccessDenied"), *GONE]
    with pytest.raises(Denied):
        _ = store.conditional
    server.script += [ok(), status(503, "SlowDown"), *GONE]
    server.script += [ok(), TAKEN, *_race(winners=1), *GONE]
    assert retrying.conditional


def test_a_create_whose_reply_was_lost_is_recognised(
    server: ScriptedServer, store: S3Store, retrying: RetryingStore
) -> None:
    server.script += [ok(), TAKEN, *_race(winners=1), *GONE]
    assert store.conditional
    server.script += [reset, status(412, "PreconditionFailed"), ok(b"mine")]
    retrying.put("a", b"mine", if_absent=True)
    server.script += [reset, status(412, "PreconditionFailed"), ok(b"theirs")]
    with pytest.raises(AlreadyExists):
        retrying.put("a", b"mine", if_absent=True)


# ------------------------------------------------------------------ what is sent


def _sent(
    server: ScriptedServer, upkeep: Upkeep, key: str = "a", **config: object
) -> dict[str, str]:
    client = connect(_config(server.url, **config), "bucket")
    clock = ManualClock()
    server.script += [ok()]
    S3Store(client, "bucket", "p", clock, upkeep=upkeep).put(key, b"123456789")
    return {name.lower(): value for name, value in server.asked[-1].headers.items()}


def test_upkeep_is_sent_with_each_object(server: ScriptedServer) -> None:
    sent = _sent(
        server,
        Upkeep(
            storage_class="STANDARD_IA",
            encryption="aws:kms",
            kms_key_id="alias/backups",
            lock=86400,
            lock_mode="COMPLIANCE",
            checksums=True,
        ),
    )
    assert sent["x-amz-storage-class"] == "STANDARD_IA"
    assert sent["x-amz-server-side-encryption"] == "aws:kms"
    assert sent["x-amz-server-side-encryption-aws-kms-key-id"] == "alias/backups"
    assert sent["x-amz-object-lock-mode"] == "COMPLIANCE"
    assert sent["x-amz-object-lock-retain-until-date"].startswith("2026-01-02T00:00:00")
    assert sent["content-md5"] == "JfnnlDI7RTiF9RgfG2JNCw=="
    assert sent["x-amz-checksum-crc32"] == "y/Q5Jg=="


@pytest.mark.parametrize("key", ["leases/writer/x", "probes/x"])
def test_what_is_rewritten_is_never_locked(server: ScriptedServer, key: str) -> None:
    sent = _sent(server, Upkeep(lock=86400), key)
    assert not [name for name in sent if "lock" in name]


def test_payload_signing(server: ScriptedServer) -> None:
    auto = _sent(server, Upkeep())
    assert len(auto["x-amz-content-sha256"]) == 64
    assert "expect" not in auto
    assert not [name for name in auto if "checksum" in name]
    never = _sent(server, Upkeep(), payload_signing="never")
    assert never["x-amz-content-sha256"] == "UNSIGNED-PAYLOAD"


def test_session_tokens_and_path_style(server: ScriptedServer) -> None:
    sent = _sent(server, Upkeep(), session_token="a-session-token")
    assert sent["x-amz-security-token"] == "a-session-token"
    assert server.asked[-1].path == "/bucket/p/a"


def test_ports_are_fulfilled(store: S3Store, retrying: RetryingStore) -> None:
    both: list[ObjectStore] = [store, retrying]
    assert {each.location for each in both} == {"s3://bucket/p"}
