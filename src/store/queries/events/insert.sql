-- Stores events together with the means to deliver them: one queue row for each subscription that matches. Matching happens here, in the
-- statement that inserts, so that it cannot be stale. The first $11 rows are born leased to this node, which sends them from memory; rows
-- beyond that are due at once for whoever has room. A subscription that is paused or disabled gets its row held.
--
-- Answers with a row for each delivery, and with one that names no delivery for each event that matched nobody.
with incoming as materialized (
    select * from unnest($1::uuid[], $2::uuid[], $3::text[], $4::text[], $5::bytea[], $6::timestamptz[], $7::text[], $8::text[])
        as e (id, partner_id, type, source, payload, occurred_at, attributes, ordering_key)
),
matched as materialized (
    select e.id as event_id, e.partner_id, s.id as subscription_id, s.state = 'active' as flows,
           row_number() over (order by s.state = 'active' desc, e.id) as place
    from incoming e
    join subscription_event_types t on t.partner_id = e.partner_id and t.event_type = e.type
    join subscriptions s on s.id = t.subscription_id and s.state <> 'deleted'
),
counted as (
    select event_id, count(*) as matched from matched group by event_id
),
stored as (
    insert into events (id, partner_id, type, source, payload, occurred_at, attributes, ordering_key, matched)
    select e.id, e.partner_id, e.type, e.source, e.payload, e.occurred_at, e.attributes::jsonb, e.ordering_key, coalesce(c.matched, 0)
    from incoming e left join counted c on c.event_id = e.id
    returning id, partner_id, matched
),
queued as (
    insert into queue (partner_id, delivery_id, event_id, subscription_id, due_at, lease_owner, lease_epoch)
    select m.partner_id, herald_uuid7_beside(m.event_id), m.event_id, m.subscription_id,
           case when not m.flows then 'infinity'
                when m.place <= $11 then herald_now() + make_interval(secs => $10 / 1000.0)
                else herald_now() end,
           case when m.flows and m.place <= $11 then $9::uuid end,
           case when m.flows and m.place <= $11 then 1 else 0 end
    from matched m
    returning delivery_id, event_id, subscription_id, lease_owner
)
select s.partner_id, s.id as event_id, s.matched, q.delivery_id, q.subscription_id, q.lease_owner is not null as leased
from stored s left join queued q on q.event_id = s.id
