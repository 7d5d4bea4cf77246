-- The nodes that are there: somebody holds the lock of their name at this moment. A machine that vanished holds it until PostgreSQL gives its
-- connection up, which is seconds.
create view nodes_at_work as
    select id, ring from nodes
    where exists (
        select from pg_locks
        where locktype = 'advisory' and objsubid = 1 and granted
          and database = (select oid from pg_database where datname = current_database())
          and ((classid::bigint << 32) | objid::bigint) = herald_node_lock(nodes.id));
