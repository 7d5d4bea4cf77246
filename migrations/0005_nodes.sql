-- The nodes that are at work, each with a row from when it holds the advisory lock of its name until it stops or is found gone. The lock is
-- the sign of life: PostgreSQL lets go of it the moment the process that held it is no more. absent_since is when somebody first noticed
-- that nobody holds it, null while somebody does; looked_at is when somebody last looked. Only hints live here: who is never listed is never
-- judged, and its leases pass by time.
create table nodes (
    id            uuid primary key,
    joined_at     timestamptz not null default herald_now(),
    absent_since  timestamptz,
    looked_at     timestamptz,
    check (absent_since is null or looked_at >= absent_since)
);

-- The lock of a node's name. Two names that share a number make a dead node look alive, and then its leases pass by time.
create function herald_node_lock(node uuid) returns bigint
    language sql immutable strict parallel safe
    as $$ select hashtextextended(node::text, 8) $$;
