-- Ends the unfinished deliveries of subscription $2, if it is deleted, as cancelled, up to $1 at a time. Rows that are leased at this
-- moment are left to their lease.
with doomed as materialized (
    select q.partner_id, q.delivery_id from queue q
    where q.subscription_id = $2 and q.lease_owner is null
      and (select s.state = 'deleted' from subscriptions s where s.id between $2 and $2 limit 1)
    limit $1
    for update skip locked
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
