-- Ends the unfinished deliveries of deleted subscriptions as cancelled, those of $2 or of all, up to $1 at a time. Rows that are leased at this
-- moment are left to their lease.
--
-- Which subscriptions have any is found by going along the index from one to the next: a backlog is many rows of few subscriptions.
with recursive having_some as (
    (select q.subscription_id from queue q
     where q.lease_owner is null and q.subscription_id >= coalesce($2::uuid, '00000000-0000-0000-0000-000000000000')
     order by q.subscription_id limit 1)
    union all
    select (select q.subscription_id from queue q
            where q.lease_owner is null and q.subscription_id > h.subscription_id
            order by q.subscription_id limit 1)
    from having_some h where h.subscription_id is not null and $2 is null
),
dead as materialized (
    select h.subscription_id from having_some h
    where (select s.state = 'deleted' from subscriptions s where s.id = h.subscription_id)
      and ($2 is null or h.subscription_id = $2)
),
doomed as materialized (
    select row.partner_id, row.delivery_id
    from dead d cross join lateral (
        select q.partner_id, q.delivery_id from queue q
        where q.subscription_id = d.subscription_id and q.lease_owner is null
        limit $1
        for update skip locked) as row
    limit $1
),
gone as (
    delete from queue q using doomed d
    -- A lookup by key, whatever the planner believes (docs/decisions/0027).
    where q.partner_id = any (array[d.partner_id]) and q.delivery_id between d.delivery_id and d.delivery_id
    returning q.partner_id, q.delivery_id, q.event_id, q.subscription_id
)
insert into attempts (partner_id, delivery_id, id, event_id, subscription_id, event_type, outcome, final_state, started_at, latency_ms)
select g.partner_id, g.delivery_id, herald_uuid7_beside(herald_uuid7_floor(herald_now())), g.event_id, g.subscription_id,
       coalesce(e.type, 'unknown'), 'cancelled', 'cancelled', herald_now(), 0
from gone g left join lateral (select type from events where id = g.event_id limit 1) e on true
