"""Real throwaway servers on this machine: PostgreSQL, Qdrant, S3.

They serve the demo, the tests and the restore drills, listen on 127.0.0.1 only, and are told
apart from everybody else's processes by pid *and* start time.
"""
