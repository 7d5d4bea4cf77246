-- Leases the oldest due row whose sender has died or whose result was lost twice at least, or may have been, since its last outcome, as far as anybody knows. Each of them
-- may be what kills its sender, so they are claimed one at a time, and none is leased while another one is being sent.
with due as materialized (
    select partner_id, delivery_id, due_at
    from queue
    where not batched and due_at <= herald_now()
      and (crashes > 1 or crashes = 1 and lease_owner is not null)
    order by due_at
    limit 1
    for update skip locked
),
-- Read when a row is among these that names an owner, and then once.
at_work as materialized (select id from nodes_at_work),
claimed as (
    update queue q set
        lease_owner = $1,
        lease_epoch = q.lease_epoch + 1,
        crashes = q.crashes + ((q.lease_owner <> $1 and not exists (select from at_work w where w.id = q.lease_owner)) is true)::int,
        due_at = herald_now() + make_interval(secs => $2 / 1000.0)
    from due d
    where q.partner_id = any (array[d.partner_id]) and q.delivery_id between d.delivery_id and d.delivery_id
    returning q.partner_id, q.delivery_id, q.event_id, q.subscription_id, q.attempts, q.lease_epoch, q.crashes, q.probe, q.draining,
              d.due_at as was_due_at, q.ctid as row_at, q.line is not null as in_line
)
select c.partner_id, c.delivery_id, c.event_id, c.subscription_id, c.attempts, c.lease_epoch, c.crashes, c.probe, c.draining, c.was_due_at, c.row_at, c.in_line,
       e.type, e.source, e.payload, e.occurred_at, false as more
from claimed c
-- One by one: a plan that is kept expects thousands of rows here, and would read all events to find these few.
left join lateral (select type, source, payload, occurred_at from events where id = c.event_id limit 1) e on true
