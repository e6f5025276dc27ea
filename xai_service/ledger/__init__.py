"""The durable store of decisions.

`ids` makes decision ids, `entry` turns decisions into bytes and back, `file` opens the SQLite file, `store` appends
and reads. Read `store` first.
"""
