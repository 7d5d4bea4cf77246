-- Leases up to $2 due rows to this node, and returns them oldest first: deliveries start in that order. No more than fit into $6 of room (null: any
-- number), of which a row takes one, and one more for every $7 bytes of its event; more says that others would have been there. A row that still names an owner when it is due again was never released. If that node is gone,
-- it counts as a crash: one that is there has stalled, or cannot write its results, as this one has that was its own. SKIP LOCKED lets any number of nodes claim side by side; MATERIALIZED keeps the planner from
-- evaluating the locking scan twice. What leaves in batches has a claim of its own.
--
-- $4 is the moment before which everything due was claimed already (null: look at all). Without it each claim would wade through the index
-- entries of all that was claimed before and that VACUUM could not remove yet. The subscriptions in $5 are set aside: their callbacks take no
-- more at present, and claiming for them would only be claiming and giving back. (There may be thousands: a set is looked up, an array would be
-- gone through for each row.) What nobody gave back is claimed all the same, so that its
-- crash is counted, and so are test pings, which are sent however the callback is doing. What would count its second crash, or has, is
-- claimed by itself (claim_suspect.sql).
--
-- Rows are leased where they were found. One that changed just before it was locked has moved, out of this statement's sight: it is followed by
-- its key, or who counts what came would take a backlog to be over. (That can only be looked up in the index,
-- see docs/decisions/0027.)
with due as materialized (
    select partner_id, delivery_id, event_id, ctid as place, due_at
    from queue
    where not batched and due_at <= herald_now() and due_at >= coalesce($4, timestamptz '-infinity')
      and (subscription_id not in (select unnest($5::uuid[])) or lease_owner is not null or probe)
      and crashes < 2 and (crashes = 0 or lease_owner is null)
    order by due_at
    limit $2
    for update skip locked
),
-- What fits into the room, and one in any case. Each comes with its event, which is looked up once and by itself: a plan that is kept expects
-- thousands of rows here, and would read all events to find these few.
sized as materialized (
    select d.partner_id, d.delivery_id, d.place, d.due_at, e.type, e.source, e.payload, e.occurred_at,
           sum(1 + coalesce(octet_length(e.payload), 0) / $7) over in_turn as room_so_far, row_number() over in_turn as turn
    from due d left join lateral (select type, source, payload, occurred_at from events where id = d.event_id limit 1) e on true
    window in_turn as (order by d.due_at, d.delivery_id)
),
fits as materialized (
    select s.*, (select max(room_so_far) > $6 from sized) is true as more from sized s where (room_so_far > $6) is not true or turn = 1
),
-- Read when a row is among these that names an owner, and then once.
at_work as materialized (select id from nodes_at_work),
claimed as (
    update queue q set
        lease_owner = $1,
        lease_epoch = q.lease_epoch + 1,
        crashes = q.crashes + ((q.lease_owner <> $1 and not exists (select from at_work w where w.id = q.lease_owner)) is true)::int,
        due_at = herald_now() + make_interval(secs => $3 / 1000.0)
    from fits d
    where q.ctid = d.place
    returning q.partner_id, q.delivery_id, q.event_id, q.subscription_id, q.attempts, q.lease_epoch, q.crashes, q.probe, q.draining,
              d.due_at as was_due_at, q.ctid as row_at, q.line is not null as in_line, d.type, d.source, d.payload, d.occurred_at, d.more
),
followed as (
    update queue q set
        lease_owner = $1,
        lease_epoch = q.lease_epoch + 1,
        crashes = q.crashes + ((q.lease_owner <> $1 and not exists (select from at_work w where w.id = q.lease_owner)) is true)::int,
        due_at = herald_now() + make_interval(secs => $3 / 1000.0)
    from fits d
    where (d.delivery_id in (select delivery_id from claimed)) is not true
      and q.partner_id = any (array[d.partner_id]) and q.delivery_id between d.delivery_id and d.delivery_id
    returning q.partner_id, q.delivery_id, q.event_id, q.subscription_id, q.attempts, q.lease_epoch, q.crashes, q.probe, q.draining,
              d.due_at as was_due_at, q.ctid as row_at, q.line is not null as in_line, d.type, d.source, d.payload, d.occurred_at, d.more
)
select * from claimed union all select * from followed
order by was_due_at, delivery_id
