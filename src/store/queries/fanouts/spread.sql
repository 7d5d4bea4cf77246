-- Turns the next chunk of a large fan-out into queue rows, and deletes it: both or neither. The subscriptions are those that the event
-- matched when it was committed; what became of them since is seen here. One that was paused gets its delivery held; that of a deleted one
-- is cancelled like any other.
with next as materialized (
    select partner_id, event_id, chunk from fanouts order by due_from limit 1 for update skip locked
),
taken as (
    delete from fanouts f using next n
    where f.partner_id = n.partner_id and f.event_id = n.event_id and f.chunk = n.chunk
    returning f.partner_id, f.event_id, f.subscriptions, f.due_from
),
queued as (
    insert into queue (partner_id, delivery_id, event_id, subscription_id, batched, due_at)
    select t.partner_id, herald_uuid7_beside(t.event_id), t.event_id, s.id, c.batch_size > 1,
           case when s.state in ('paused', 'disabled') then 'infinity'
                else t.due_from + (m.place - 1) * interval '50 microseconds' end
    from taken t
    cross join unnest(t.subscriptions) with ordinality as m (subscription_id, place)
    join subscriptions s on s.id = m.subscription_id
    join callbacks c on c.id = s.callback_id
    returning delivery_id
)
select t.event_id, (select count(*) from queued) as deliveries from taken t
