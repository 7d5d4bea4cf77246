-- What a commit leases to its node stands in one row, and not in a row of the queue for each delivery: most arrive within milliseconds, and
-- then none was needed. A bundle is exactly as good as the rows that it stands for, and whoever cannot do without these takes it apart: what has
-- ended is left out, the rest gets the rows with which it would have begun (epoch 0, its owner, its lease's end). So it never changes; its
-- row goes when all of it has ended or has a row, or when it is taken apart. Ordering keys and batches have no part in it.
create table bundles (
    id                uuid primary key,
    owner             uuid not null,
    born_at           timestamptz not null default herald_now(),
    -- The end of the lease, as in the queue.
    due_at            timestamptz not null check (due_at < 'infinity'),
    partner_ids       uuid[] not null,
    delivery_ids      uuid[] not null,
    event_ids         uuid[] not null,
    subscription_ids  uuid[] not null,
    check (cardinality(delivery_ids) > 0 and cardinality(partner_ids) = cardinality(delivery_ids)
           and cardinality(event_ids) = cardinality(delivery_ids) and cardinality(subscription_ids) = cardinality(delivery_ids))
) with (autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_cost_delay = 0);
-- Serves: take apart what ran out.
create index bundles_due_at on bundles (due_at);
-- Random ids do not get smaller.
alter table bundles alter partner_ids set storage external, alter delivery_ids set storage external,
    alter event_ids set storage external, alter subscription_ids set storage external;

-- What stands in bundles alone. Each member is looked up by its key, whatever the planner believes (docs/decisions/0027): in their order, attempts are
-- only found there. An attempt's id says when it began; the day on either side is for clocks that were set.
create view bundled as
select m.partner_id, m.delivery_id, m.event_id, m.subscription_id, b.due_at, b.owner, b.id as bundle_id, cardinality(b.delivery_ids) as bundle_size
from bundles b
cross join lateral unnest(b.partner_ids, b.delivery_ids, b.event_ids, b.subscription_ids) as m (partner_id, delivery_id, event_id, subscription_id)
where (select true from queue q where q.partner_id = m.partner_id and q.delivery_id = m.delivery_id limit 1) is null
  and (select true from attempts a
       where a.partner_id = m.partner_id and a.delivery_id = m.delivery_id and a.final_state is not null
         and a.id between herald_uuid7_floor(b.born_at - interval '1 day') and herald_uuid7_floor(herald_now() + interval '1 day')
       order by a.id limit 1) is null;

-- All that is unfinished, wherever it stands, as rows of the queue.
create view unfinished as
select partner_id, delivery_id, event_id, subscription_id, attempts, due_at, lease_owner, lease_epoch, crashes, probe,
       batched, batch_id, line, place, waits, draining
from queue
union all
select partner_id, delivery_id, event_id, subscription_id, 0, due_at, owner, 0, 0::smallint, false, false, null, null, null, false, false
from bundled;

-- Takes bundles apart; answers with how many. Whoever records that members have ended locks their bundles; one that is locked is waited for, or
-- left alone. What had ended by then is seen only by the statement after that, which is why this is a function and not one statement.
-- The queue fills while its rows are looked up, and reading all of it must not look cheap because it was empty.
create function herald_take_apart(wanted uuid[], waits boolean) returns bigint
    language plpgsql
    set enable_seqscan = off
    as $$
        declare
            taken uuid[];
        begin
            if waits then
                taken := array(select id from bundles where id = any (wanted) order by id for update);
            else
                taken := array(select id from bundles where id = any (wanted) order by id for update skip locked);
            end if;
            insert into queue (partner_id, delivery_id, event_id, subscription_id, due_at, lease_owner)
            select partner_id, delivery_id, event_id, subscription_id, due_at, owner from bundled where bundle_id = any (taken)
            on conflict (partner_id, delivery_id) do nothing;
            delete from bundles where id = any (taken);
            return cardinality(taken);
        end
    $$;
