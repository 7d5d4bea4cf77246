-- Leases batches that are due to this node, whole, and returns their deliveries: as many batches as fit into $4 of room, and of each callback $6
-- at most. A delivery takes one of the room, and one more for every $7 bytes of its data. A batch
-- that still names an owner when it is due again was never released. If that node is gone, it counts as a crash. Batches of
-- the subscriptions in $3 and of the callbacks in $5 are left alone, and with a $9 of 0 of all callbacks but those in $8; a crash of theirs is counted
-- when they are claimed after all.
--
-- Section "any" takes all but those that would count their second crash, or have. Each of these may be what kills its sender: section "suspect"
-- takes one of them, the oldest. Whoever asks for it sees to it that none is leased while another one is being sent.
--
-- Of each batch one row stands for the rest: the first of those that wait for nobody. Who holds that takes the others, and takes the batch
-- only if it got them all; somebody who finishes it late may hold some of them at this moment.
with due as materialized (
    select q.batch_id, q.subscription_id, q.due_at
    from queue q
    where q.batch_id is not null and not q.waits and q.due_at <= herald_now()
--{ any
      and q.subscription_id not in (select unnest($3::uuid[]))
      and q.subscription_id not in (select id from subscriptions where callback_id = any ($5) and state <> 'deleted')
      and ($9 > 0 or q.subscription_id in (select id from subscriptions where callback_id = any ($8) and state <> 'deleted'))
      and q.crashes < 2 and (q.crashes = 0 or q.lease_owner is null)
--}
--{ suspect
      and (q.crashes > 1 or q.crashes = 1 and q.lease_owner is not null)
--}
      and (select true from queue o where o.batch_id = q.batch_id and not o.waits and o.delivery_id < q.delivery_id limit 1) is null
    order by q.due_at
--{ any
    limit 64
--}
--{ suspect
    limit 1
--}
    for update of q skip locked
),
turns as (
    select d.batch_id, d.due_at, s.callback_id, row_number() over (partition by s.callback_id order by d.due_at, d.batch_id) as turn
    from due d left join lateral (select callback_id from subscriptions where id = d.subscription_id limit 1) s on true
),
locked as materialized (
    select m.partner_id, m.delivery_id, m.event_id, d.batch_id, d.due_at, d.callback_id
    from turns d
    -- Batch by batch: as a join it may be made into reading the batches of everybody, see docs/decisions/0027.
    cross join lateral (
        select q.partner_id, q.delivery_id, q.event_id from queue q where q.batch_id = any (array[d.batch_id]) for update skip locked) as m
--{ any
    where d.turn <= $6
--}
),
-- A batch brings its deliveries along, as in form.sql.
whole as materialized (
    select b.callback_id, b.partner_id, b.deliveries
    from (
        select l.batch_id, l.callback_id, l.partner_id, array_agg(l.delivery_id) as deliveries,
               sum(sum(1 + coalesce(octet_length(e.payload), 0) / $7)) over (order by min(l.due_at), l.batch_id) as room_so_far
        from locked l left join lateral (select payload from events where id = l.event_id limit 1) e on true
        group by l.batch_id, l.callback_id, l.partner_id
    ) as b
    where b.room_so_far <= $4 and cardinality(b.deliveries) = (select count(*) from queue q where q.batch_id = b.batch_id)
),
members as materialized (
    select callback_id, partner_id, unnest(deliveries) as delivery_id from whole
),
-- Read when a row is among these that names an owner, and then once.
at_work as materialized (select id from nodes_at_work),
claimed as (
    update queue q set
        lease_owner = $1,
        lease_epoch = q.lease_epoch + 1,
        crashes = q.crashes + ((q.lease_owner <> $1 and not exists (select from at_work w where w.id = q.lease_owner)) is true)::int,
        due_at = herald_now() + make_interval(secs => $2 / 1000.0)
    from members m
    where q.partner_id = any (array[m.partner_id]) and q.delivery_id between m.delivery_id and m.delivery_id
    returning q.batch_id, m.callback_id, q.partner_id, q.delivery_id, q.event_id, q.subscription_id, q.attempts, q.lease_epoch, q.crashes,
              q.draining, q.line, q.place
)
select c.*, e.type, e.source, e.payload, e.occurred_at
from claimed c
-- One by one: a plan that is kept expects thousands of rows here, and would read all events to find these few.
left join lateral (select type, source, payload, occurred_at from events where id = c.event_id limit 1) e on true
