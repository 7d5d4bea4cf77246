-- Looks who is there: notes since when a node's lock has been found unheld at every look, forgets that when it is held again, and returns the
-- nodes that have been absent for $1 milliseconds at least. Looks more than $2 milliseconds apart do not belong together: the database was
-- away in between, and with it everybody's lock. pg_locks shows a 64 bit key in two halves.
with present as materialized (
    select (classid::bigint << 32) | objid::bigint as key
    from pg_locks
    where locktype = 'advisory' and objsubid = 1 and granted
      and database = (select oid from pg_database where datname = current_database())
),
seen as materialized (
    select n.id, n.absent_since is not null as was_absent, exists (select from present p where p.key = herald_node_lock(n.id)) as here,
           case when n.looked_at >= herald_now() - make_interval(secs => $2 / 1000.0) then n.absent_since end as noted_since
    from nodes n
),
noted as (
    update nodes n set
        absent_since = case when s.here then null else coalesce(s.noted_since, herald_now()) end,
        looked_at = herald_now()
    from seen s
    where n.id = s.id and (s.was_absent or not s.here)
)
select id from seen where not here and noted_since <= herald_now() - make_interval(secs => $1 / 1000.0)
