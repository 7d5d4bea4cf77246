-- Ends unfinished deliveries of events that have left the retention window of $1 days as expired: the next $4 after the key ($2, $3). Rows
-- that somebody is sending at this moment are left to their lease: the sender has the event in memory, and whoever claims the row after
-- that ends it. The walk follows the primary key, so that a whole pass reads the queue once.
with old as materialized (
    select partner_id, delivery_id
    from queue
    where (partner_id, delivery_id) > ($2, $3)
      and event_id < herald_uuid7_floor(((herald_now() at time zone 'UTC')::date - $1)::timestamp at time zone 'UTC')
      and (lease_owner is null or due_at <= herald_now())
    order by partner_id, delivery_id
    limit $4
    for update skip locked
),
gone as (
    delete from queue q using old o
    where q.partner_id = o.partner_id and q.delivery_id = o.delivery_id
    returning q.partner_id, q.delivery_id, q.event_id, q.subscription_id
),
told as (
    insert into attempts (partner_id, delivery_id, id, event_id, subscription_id, event_type, outcome, final_state, started_at, latency_ms)
    select g.partner_id, g.delivery_id, herald_uuid7_beside(herald_uuid7_floor(herald_now())), g.event_id, g.subscription_id,
           coalesce(e.type, 'unknown'), 'expired', 'expired', herald_now(), 0
    from gone g left join events e on e.id = g.event_id
)
select count(*) over () as expired, partner_id, delivery_id from gone order by partner_id desc, delivery_id desc limit 1
