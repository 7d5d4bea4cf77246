-- Leases up to $2 due rows to this node, and returns them oldest first: deliveries start in that order. A row that still names an owner when it is due again was never released: its sender died or
-- stalled, and that counts as a crash. SKIP LOCKED lets any number of nodes claim side by side; MATERIALIZED keeps the planner from
-- evaluating the locking scan twice. What leaves in batches has a claim of its own.
--
-- $4 is the moment before which everything due was claimed already (null: look at all). Without it each claim would wade through the index
-- entries of all that was claimed before and that VACUUM could not remove yet. The subscriptions in $5 are set aside: their callbacks take no
-- more at present, and claiming for them would only be claiming and giving back. What nobody gave back is claimed all the same, so that its
-- crash is counted, and so are test pings, which are sent however the callback is doing. What would count its second crash, or has, is
-- claimed by itself (claim_suspect.sql).
--
-- Rows are leased where they were found. One that changed just before it was locked has moved, out of this statement's sight: it is followed by
-- its key, or who counts what came would take a backlog to be over. (That can only be looked up in the index,
-- see docs/decisions/0027.)
with due as materialized (
    select partner_id, delivery_id, ctid as place, due_at
    from queue
    where not batched and due_at <= herald_now() and due_at >= coalesce($4, timestamptz '-infinity')
      and (subscription_id <> all ($5) or lease_owner is not null or probe)
      and crashes < 2 and (crashes = 0 or lease_owner is null)
    order by due_at
    limit $2
    for update skip locked
),
claimed as (
    update queue q set
        lease_owner = $1,
        lease_epoch = q.lease_epoch + 1,
        crashes = q.crashes + (q.lease_owner is not null)::int,
        due_at = herald_now() + make_interval(secs => $3 / 1000.0)
    from due d
    where q.ctid = d.place
    returning q.partner_id, q.delivery_id, q.event_id, q.subscription_id, q.attempts, q.lease_epoch, q.crashes, q.probe, q.draining,
              d.due_at as was_due_at, q.ctid as row_at
),
followed as (
    update queue q set
        lease_owner = $1,
        lease_epoch = q.lease_epoch + 1,
        crashes = q.crashes + (q.lease_owner is not null)::int,
        due_at = herald_now() + make_interval(secs => $3 / 1000.0)
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
