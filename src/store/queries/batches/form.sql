-- Gathers what is due and leaves in batches into new batches, leases them to this node, and returns their deliveries. Of each callback
-- that is not among $8, up to $6 batches of its size, oldest first, but nothing of the subscriptions in $5; in all as much as fits into $4 of room. A
-- delivery takes one of it, and one more for every $9 bytes of its data. Of a callback that is not among $10, $12 batches of $11 at most.
--
-- A batch goes when it is full, in number or in bytes of data ($7), or when the oldest in it has been due for $3 milliseconds. Only who is
-- first in line for its ordering key is locked; those who wait behind it in the same line can go nowhere without it, and go with it in their
-- order. A batch ends a line's part in it: who does not fit waits for the end of those before, as ever. Nobody goes along while the subscription
-- is stopped: who got in line after that must not be sent even by a node that has not heard of it.
--
-- What is not gathered is let go of when the statement ends. SKIP LOCKED lets any number of nodes gather side by side.
with recursive gathering as (
    -- From one subscription to the next by the index, whatever the number of their deliveries.
    (select q.subscription_id from queue q where q.batched and q.batch_id is null and not q.waits order by q.subscription_id limit 1)
    union all
    select (select q.subscription_id from queue q
            where q.batched and q.batch_id is null and not q.waits and q.subscription_id > g.subscription_id
            order by q.subscription_id limit 1)
    from gathering g where g.subscription_id is not null
),
ready as materialized (
    select s.id as subscription_id, s.callback_id, c.batch_size, s.state = 'active' as flows, firsts.oldest,
           least(firsts.due + followers.waiting, c.batch_size) as wants,
           row_number() over (partition by s.callback_id order by firsts.oldest, s.id) as turn
    from gathering g
    -- Each is looked up by its key, whatever the planner believes of the tables, see docs/decisions/0027.
    cross join lateral (
        select id, partner_id, callback_id, state from subscriptions
        where id between g.subscription_id and g.subscription_id order by id limit 1) as s
    cross join lateral (
        select least(batch_size, case when id not in (select unnest($10::uuid[])) then $11::int end) as batch_size from callbacks where id = s.callback_id limit 1) as c
    cross join lateral (
        select count(*) as due, min(due_at) as oldest from (
            select q.due_at from queue q
            where q.subscription_id = s.id and q.batched and q.batch_id is null and not q.waits and q.due_at <= herald_now()
            order by q.due_at, q.event_id limit c.batch_size) as d
    ) as firsts
    cross join lateral (
        select count(*) as waiting from (
            select from queue q
            where s.state = 'active'
              and q.partner_id = s.partner_id and q.subscription_id = s.id and q.line is not null and q.waits and q.batch_id is null
            limit c.batch_size) as w
    ) as followers
    where s.id not in (select unnest($5::uuid[])) and s.callback_id not in (select unnest($8::uuid[])) and firsts.due > 0
      and (firsts.due + followers.waiting >= c.batch_size or firsts.oldest <= herald_now() - make_interval(secs => $3 / 1000.0))
),
-- Who has waited longest and who wants least come first, by turns: those who want little need not wait for a crowd, nor the others for ever.
asked as (
    select r.*, (sum(r.wants) over ())::bigint as wanted,
           least(2 * row_number() over (order by r.turn, r.oldest, r.subscription_id) - 1,
                 2 * row_number() over (order by r.turn, r.wants, r.oldest, r.subscription_id)) as rank
    from ready r where r.turn <= $6
),
-- Nobody is asked once there is more than there is room for: a round costs what it takes, whatever else is due. While not everybody's first batch
-- fits, nobody brings a second. Without an order of its own, what is read stays in the order of who is asked, and reading ends at the limit;
-- what somebody has locked does not count.
firsts as materialized (
    select r.subscription_id, r.callback_id, r.batch_size, r.flows, r.rank, f.partner_id, f.delivery_id, f.event_id, f.line, f.place, f.due_at
    from (select * from asked order by rank) r cross join lateral (
        select q.partner_id, q.delivery_id, q.event_id, q.line, q.place, q.due_at
        from queue q
        where q.subscription_id = r.subscription_id and q.batched and q.batch_id is null and not q.waits and q.due_at <= herald_now()
        order by q.due_at, q.event_id
        limit r.batch_size * least($6, greatest(1, $4 / r.wanted))
        for update skip locked) as f
    limit $4 + 1
),
followers as (
    select f.subscription_id, f.callback_id, f.batch_size, f.rank, f.partner_id, n.delivery_id, n.event_id, f.line, n.place, f.due_at
    from firsts f cross join lateral (
        -- One that leaves alone (its callback took no batches when it came) ends the part of its line that may go along.
        select q.delivery_id, q.event_id, q.place, bool_and(q.batched and q.waits and q.batch_id is null) over (order by q.place) as fits
        from queue q
        where q.partner_id = f.partner_id and q.subscription_id = f.subscription_id and q.line = f.line and q.place > f.place
        order by q.place
        limit f.batch_size - 1) as n
    where f.line is not null and f.flows and n.fits
    -- Long lines make a round no longer either. Who is cut off is of those for whom there is hardly room.
    limit 4 * $4
),
candidates as (
    select subscription_id, callback_id, batch_size, rank, partner_id, delivery_id, event_id, line, place, due_at from firsts
    union all
    select subscription_id, callback_id, batch_size, rank, partner_id, delivery_id, event_id, line, place, due_at from followers
),
aged as (
    select c.*, coalesce(octet_length(e.payload), 0) as bytes,
           row_number() over (partition by c.subscription_id order by c.event_id, c.delivery_id) as age
    from candidates c
    left join lateral (select payload from events where id = c.event_id limit 1) e on true
),
in_order as (
    -- Within a line nobody is older than who stands before it, whatever the clocks of the nodes that it came by.
    select a.*, case when a.line is null then a.age else max(a.age) over (partition by a.subscription_id, a.line order by a.place) end as turn
    from aged a
),
numbered as (
    select i.*, row_number() over in_turn as number, sum(i.bytes) over in_turn as bytes_so_far
    from in_order i
    window in_turn as (partition by i.subscription_id order by i.turn, i.place, i.delivery_id)
),
grouped as (
    select n.*, dense_rank() over (
               partition by n.subscription_id order by (n.number - 1) / n.batch_size, greatest(n.bytes_so_far - 1, 0)::bigint / $7) as batch
    from numbered n
),
placed as (
    select g.*, max(g.batch) over (partition by g.subscription_id) as last_batch,
           count(*) over (partition by g.subscription_id, g.batch) as size,
           min(g.due_at) over (partition by g.subscription_id, g.batch) as oldest,
           case when g.line is null then g.batch
                else first_value(g.batch) over (partition by g.subscription_id, g.line order by g.place) end as batch_of_first
    from grouped g
),
going as (
    select p.* from placed p
    where p.batch = p.batch_of_first and p.batch <= $6
      and (p.size = p.batch_size or p.batch < p.last_batch or p.oldest <= herald_now() - make_interval(secs => $3 / 1000.0))
),
turns as (
    select g.subscription_id, g.batch, g.callback_id, g.partner_id, array_agg(g.delivery_id) as deliveries,
           g.rank, sum(1 + g.bytes / $9) as room,
           row_number() over (partition by g.callback_id order by min(g.due_at), g.subscription_id, g.batch) as turn
    from going g group by g.callback_id, g.partner_id, g.subscription_id, g.rank, g.batch
),
-- A batch brings its deliveries along: joined with all batches, each delivery was compared with each of them. What an UPDATE joins is kept narrow,
-- because its rows are copied whole.
formed as materialized (
    select herald_uuid7_beside(herald_uuid7_floor(herald_now())) as batch_id, w.callback_id, w.partner_id, w.deliveries
    from (
        select t.*, sum(t.room) over (order by t.turn, t.rank, t.subscription_id, t.batch) as room_so_far from turns t
        where t.turn <= case when t.callback_id in (select unnest($10::uuid[])) then $6 else $12::int end
    ) as w
    where w.room_so_far <= $4
),
members as materialized (
    select batch_id, callback_id, partner_id, unnest(deliveries) as delivery_id from formed
),
claimed as (
    update queue q set
        batch_id = m.batch_id,
        lease_owner = $1,
        lease_epoch = q.lease_epoch + 1,
        due_at = herald_now() + make_interval(secs => $2 / 1000.0)
    from members m
    where q.partner_id = any (array[m.partner_id]) and q.delivery_id between m.delivery_id and m.delivery_id and q.batch_id is null
    returning q.batch_id, m.callback_id, q.partner_id, q.delivery_id, q.event_id, q.subscription_id, q.attempts, q.lease_epoch, q.crashes, q.draining, q.line, q.place
)
select c.*, e.type, e.source, e.payload, e.occurred_at
from claimed c
-- One by one: a plan that is kept expects thousands of rows here, and would read all events to find these few.
left join lateral (select type, source, payload, occurred_at from events where id = c.event_id limit 1) e on true
