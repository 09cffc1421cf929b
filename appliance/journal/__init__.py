"""The journal: every fact and state of the appliance, in one SQLite database.

Read `schema.sql` first. `database` holds the connection, the transaction and `move()`, the only writer
of a state; `instances`, `series`, `jobs` and `deliveries` hold what can be done to each aggregate.
"""
