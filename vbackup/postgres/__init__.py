"""PostgreSQL: snapshots, change feeds, pg_dump and pg_restore. The only room with psycopg."""
