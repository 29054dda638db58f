"""Object stores: S3-compatible and a directory. The only room that imports boto3."""
