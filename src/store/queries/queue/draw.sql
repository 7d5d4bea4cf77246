-- Leases due rows of some subscriptions to this node: of each of $3 up to as many as $4 says, oldest first, due no earlier than $5 says. This is how what was set
-- aside comes back when its callback takes more, see claim.sql. It looks only at what nobody has leased; leases that ran out are the general claim's.
with wanted as (
    select * from unnest($3::uuid[], $4::bigint[], $5::timestamptz[]) as w (subscription_id, up_to, due_from)
),
due as materialized (
    select next.partner_id, next.delivery_id, next.place, next.due_at
    from wanted w cross join lateral (
        select partner_id, delivery_id, ctid as place, due_at
        from queue q
        where q.subscription_id = w.subscription_id and q.lease_owner is null and not q.batched and q.crashes < 2
          and q.due_at <= herald_now() and q.due_at >= coalesce(w.due_from, timestamptz '-infinity')
        order by q.due_at, q.delivery_id
        limit w.up_to
        for update skip locked) as next
),
claimed as (
    update queue q set
        lease_owner = $1,
        lease_epoch = q.lease_epoch + 1,
        due_at = herald_now() + make_interval(secs => $2 / 1000.0)
    from due d
    where q.ctid = d.place
    returning q.partner_id, q.delivery_id, q.event_id, q.subscription_id, q.attempts, q.lease_epoch, q.crashes, q.probe, q.draining,
              d.due_at as was_due_at, q.ctid as row_at
),
followed as (
    update queue q set
        lease_owner = $1,
        lease_epoch = q.lease_epoch + 1,
        due_at = herald_now() + make_interval(secs => $2 / 1000.0)
    from due d
    where (d.delivery_id in (select delivery_id from claimed)) is not true
      and q.partner_id = any (array[d.partner_id]) and q.delivery_id between d.delivery_id and d.delivery_id
    returning q.partner_id, q.delivery_id, q.event_id, q.subscription_id, q.attempts, q.lease_epoch, q.crashes, q.probe, q.draining,
              d.due_at as was_due_at, q.ctid as row_at
)
select c.partner_id, c.delivery_id, c.event_id, c.subscription_id, c.attempts, c.lease_epoch, c.crashes, c.probe, c.draining, c.was_due_at, c.row_at,
       e.type, e.source, e.payload, e.occurred_at
from (select * from claimed union all select * from followed) c
-- One by one: a plan that is kept expects thousands of rows here, and would read all events to find these few.
left join lateral (select type, source, payload, occurred_at from events where id = c.event_id limit 1) e on true
order by c.was_due_at, c.delivery_id
