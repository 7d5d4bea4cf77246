-- Ends the unfinished deliveries of deleted subscriptions as cancelled, up to $1 at a time. Rows that are leased at this moment are left
-- to their lease.
with doomed as materialized (
    select q.partner_id, q.delivery_id
    from queue q join subscriptions s on s.id = q.subscription_id
    where s.state = 'deleted' and q.lease_owner is null
      and ($2::uuid is null or q.subscription_id = $2)
    limit $1
    for update of q skip locked
),
gone as (
    delete from queue q using doomed d
    where q.partner_id = d.partner_id and q.delivery_id = d.delivery_id
    returning q.partner_id, q.delivery_id, q.event_id, q.subscription_id
)
insert into attempts (partner_id, delivery_id, id, event_id, subscription_id, event_type, outcome, final_state, started_at, latency_ms)
select g.partner_id, g.delivery_id, herald_uuid7_beside(herald_uuid7_floor(herald_now())), g.event_id, g.subscription_id,
       coalesce(e.type, 'unknown'), 'cancelled', 'cancelled', herald_now(), 0
from gone g left join events e on e.id = g.event_id
