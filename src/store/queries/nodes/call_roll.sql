-- Looks who is there: notes when a node's lock was first found unheld, forgets that when it is held again, and returns the nodes that have
-- been absent for $1 milliseconds at least, at this look and at an earlier one. pg_locks shows a 64 bit key in two halves.
with present as materialized (
    select (classid::bigint << 32) | objid::bigint as key
    from pg_locks
    where locktype = 'advisory' and objsubid = 1 and granted
      and database = (select oid from pg_database where datname = current_database())
),
seen as materialized (
    select n.id, n.absent_since, exists (select from present p where p.key = herald_node_lock(n.id)) as here from nodes n
),
noted as (
    update nodes n set absent_since = case when s.here then null else herald_now() end
    from seen s
    where n.id = s.id and s.here = (s.absent_since is not null)
)
select id from seen where not here and absent_since <= herald_now() - make_interval(secs => $1 / 1000.0)
