#!/bin/sh
# The bucket and the repository, where they are not there yet. Compose runs it before the daemon,
# and again when the S3 server was not ready.
set -eu
python - <<'PYTHON'
import boto3

s3 = boto3.client("s3", region_name="us-east-1")
if "backups" not in [bucket["Name"] for bucket in s3.list_buckets()["Buckets"]]:
    s3.create_bucket(Bucket="backups")
PYTHON
exec vbackup --config /etc/vbackup/vbackup.toml init
