-- Leases due rows of some subscriptions to this node: of each of $3 up to as many as $4 says, oldest first, due no earlier than $5 says, and in all
-- no more than fit into $6 of room, see claim.sql. This is how what was set
-- aside comes back when its callback takes more, see claim.sql. It looks only at what nobody has leased; leases that ran out are the general claim's.
with wanted as (
    select * from unnest($3::uuid[], $4::bigint[], $5::timestamptz[]) as w (subscription_id, up_to, due_from)
),
due as materialized (
    select next.partner_id, next.delivery_id, next.event_id, next.place, next.due_at
    from wanted w cross join lateral (
        select partner_id, delivery_id, event_id, ctid as place, due_at
        from queue q
        where q.subscription_id = w.subscription_id and q.lease_owner is null and not q.batched and q.crashes < 2
          and q.due_at <= herald_now() and q.due_at >= coalesce(w.due_from, timestamptz '-infinity')
        order by q.due_at, q.delivery_id
        limit w.up_to
        for update skip locked) as next
),
sized as materialized (
    select d.partner_id, d.delivery_id, d.place, d.due_at, e.type, e.source, e.payload, e.occurred_at,
           sum(1 + coalesce(octet_length(e.payload), 0) / $7) over in_turn as room_so_far, row_number() over in_turn as turn
    from due d left join lateral (select type, source, payload, occurred_at from events where id = d.event_id limit 1) e on true
    window in_turn as (order by d.due_at, d.delivery_id)
),
fits as materialized (
    select s.*, (select max(room_so_far) > $6 from sized) is true as more from sized s where (room_so_far > $6) is not true or turn = 1
),
claimed as (
    update queue q set
        lease_owner = $1,
        lease_epoch = q.lease_epoch + 1,
        due_at = herald_now() + make_interval(secs => $2 / 1000.0)
    from fits d
    where q.ctid = d.place
    returning q.partner_id, q.delivery_id, q.event_id, q.subscription_id, q.attempts, q.lease_epoch, q.crashes, q.probe, q.draining,
              d.due_at as was_due_at, q.ctid as row_at, q.line is not null as in_line, d.type, d.source, d.payload, d.occurred_at, d.more
),
followed as (
    update queue q set
        lease_owner = $1,
        lease_epoch = q.lease_epoch + 1,
        due_at = herald_now() + make_interval(secs => $2 / 1000.0)
    from fits d
    where (d.delivery_id in (select delivery_id from claimed)) is not true
      and q.partner_id = any (array[d.partner_id]) and q.delivery_id between d.delivery_id and d.delivery_id
    returning q.partner_id, q.delivery_id, q.event_id, q.subscription_id, q.attempts, q.lease_epoch, q.crashes, q.probe, q.draining,
              d.due_at as was_due_at, q.ctid as row_at, q.line is not null as in_line, d.type, d.source, d.payload, d.occurred_at, d.more
)
select * from claimed union all select * from followed
order by was_due_at, delivery_id
