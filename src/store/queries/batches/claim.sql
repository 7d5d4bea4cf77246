-- Leases batches that are due to this node, whole, and returns their deliveries: at most $4 of them. A batch
-- that still names an owner when it is due again was never released: its sender died or stalled, and that counts as a crash. Other batches of
-- the subscriptions in $3 are left alone.
--
-- Of each batch one row stands for the rest: the first of those that wait for nobody. Who holds that takes the others, and takes the batch
-- only if it got them all; somebody who finishes it late may hold some of them at this moment.
with due as materialized (
    select q.batch_id, q.due_at
    from queue q
    where q.batch_id is not null and not q.waits and q.due_at <= herald_now()
      and (q.subscription_id <> all ($3) or q.lease_owner is not null)
      and (select true from queue o where o.batch_id = q.batch_id and not o.waits and o.delivery_id < q.delivery_id limit 1) is null
    order by q.due_at
    limit 64
    for update of q skip locked
),
locked as materialized (
    select q.partner_id, q.delivery_id, q.batch_id, d.due_at
    from due d join queue q on q.batch_id = any (array[d.batch_id])
    for update of q skip locked
),
whole as materialized (
    select b.batch_id
    from (
        select l.batch_id, count(*) as deliveries, sum(count(*)) over (order by min(l.due_at), l.batch_id) as deliveries_so_far
        from locked l group by l.batch_id
    ) as b
    where b.deliveries_so_far <= $4 and b.deliveries = (select count(*) from queue q where q.batch_id = b.batch_id)
),
claimed as (
    update queue q set
        lease_owner = $1,
        lease_epoch = q.lease_epoch + 1,
        crashes = q.crashes + (q.lease_owner is not null)::int,
        due_at = herald_now() + make_interval(secs => $2 / 1000.0)
    from locked l join whole w on w.batch_id = l.batch_id
    where q.partner_id = any (array[l.partner_id]) and q.delivery_id between l.delivery_id and l.delivery_id
    returning q.batch_id, q.partner_id, q.delivery_id, q.event_id, q.subscription_id, q.attempts, q.lease_epoch, q.crashes, q.draining, q.line, q.place
)
select c.*, e.type, e.source, e.payload, e.occurred_at
from claimed c
-- One by one: a plan that is kept expects thousands of rows here, and would read all events to find these few.
left join lateral (select type, source, payload, occurred_at from events where id = c.event_id limit 1) e on true
