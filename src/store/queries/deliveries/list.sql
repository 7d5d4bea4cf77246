-- A page of a partner's deliveries, newest first: those still in the queue or in a bundle, and those whose last final attempt ended them.
-- Every filter is optional: $3 state, $4 subscriptions (inside), $5 event type, $6 one event.
-- What waits behind another delivery with its ordering key is held if its subscription is stopped, and pending if it is not.
--
-- Where a state is asked for, only one of the two is looked into: sections "live" and "ended". What ended otherwise than by arriving has an
-- index of its own ("rare").
with
--{ live
live as (
    select q.delivery_id, q.event_id, q.subscription_id, e.type as event_type, stands.state,
           case when q.due_at < 'infinity' then q.due_at end as due_at, null::timestamptz as ended_at
    from queue q
    -- One by one and by their keys, whatever the planner believes (docs/decisions/0027); so is all that follows.
    cross join lateral (select type from events where id = q.event_id limit 1) e
    cross join lateral (select state from subscriptions where id = q.subscription_id limit 1) s
    cross join lateral (
        select case when q.due_at = 'infinity' and (not q.waits or s.state in ('paused', 'disabled')) then 'held' else 'pending' end as state
    ) stands
    where q.partner_id = $1 and q.delivery_id < $2 and q.delivery_id >= $8
      and ($3::text is null or $3 = stands.state)
      and ($4::uuid[] is null or q.subscription_id = any ($4))
      and ($5::text is null or e.type = $5)
      and ($6::uuid is null or q.event_id = $6)
    order by q.delivery_id desc
    limit $7
),
-- What is being sent for the first time stands in a bundle, and not in the queue.
fresh as (
    select b.delivery_id, b.event_id, b.subscription_id, e.type as event_type, 'pending' as state, b.due_at, null::timestamptz as ended_at
    from bundled b
    cross join lateral (select type from events where id = b.event_id limit 1) e
    where b.partner_id = $1 and b.delivery_id < $2 and b.delivery_id >= $8
      and ($3::text is null or $3 = 'pending')
      and ($4::uuid[] is null or b.subscription_id = any ($4))
      and ($5::text is null or e.type = $5)
      and ($6::uuid is null or b.event_id = $6)
    order by b.delivery_id desc
    limit $7
),
--}
--{ ended
ended as (
    select a.delivery_id, a.event_id, a.subscription_id, a.event_type, a.final_state as state, null::timestamptz as due_at,
           a.started_at + make_interval(secs => a.latency_ms / 1000.0) as ended_at
    from attempts a
    where a.partner_id = $1 and a.delivery_id < $2 and a.delivery_id >= $8 and a.final_state is not null
      and ($3::text is null or a.final_state = $3)
--{ rare
      and a.final_state in ('dead', 'cancelled', 'expired')
--}
      and ($4::uuid[] is null or a.subscription_id = any ($4))
      and ($5::text is null or a.event_type = $5)
      and ($6::uuid is null or a.event_id = $6)
      and (select true from queue q where q.partner_id = a.partner_id and q.delivery_id = a.delivery_id limit 1) is null
      and (select true from attempts later
           where later.partner_id = a.partner_id and later.delivery_id = a.delivery_id and later.id > a.id and later.final_state is not null
           order by later.id limit 1) is null
    order by a.delivery_id desc
    limit $7
),
--}
page as (
--{ live
    select * from live union all select * from fresh
--}
--{ both
    union all
--}
--{ ended
    select * from ended
--}
    order by delivery_id desc limit $7
)
select p.delivery_id, p.event_id, p.subscription_id, p.event_type, p.state, p.due_at, p.ended_at,
       s.surface, s.external_key, c.url,
       (select count(*) from attempts a where a.partner_id = $1 and a.delivery_id = p.delivery_id
          and a.outcome not in ('cancelled', 'expired', 'crashed')) as attempts
from page p
cross join lateral (select surface, external_key, callback_id from subscriptions where id = p.subscription_id limit 1) s
cross join lateral (select url from callbacks where id = s.callback_id limit 1) c
order by p.delivery_id desc
