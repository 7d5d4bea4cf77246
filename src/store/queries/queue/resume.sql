-- Makes the oldest of what is held for those of the subscriptions in $3 due that are active: up to $1 rows in all, shared among
-- them, and of each no more than leaves $2 of those on their way that were held before. Each is due a microsecond after the one before
-- it, so that they are claimed in their order. Of a batch all rows are made due, or its first could be left behind: who holds the first of those that
-- wait for nobody takes the others, and makes them due only if it got them all (as batches/claim.sql does). Nobody is waited for: what somebody
-- else holds is left for the next time. Answers with how many that were, and whether there was anything to do, done or not.
with active as materialized (
    select s.id as subscription_id, on_their_way.count as on_their_way
    from unnest($3::uuid[]) as h (subscription_id)
    join subscriptions s on s.id = h.subscription_id and s.state = 'active'
    cross join lateral (
        select from queue q where q.subscription_id = s.id and q.due_at = 'infinity' and not q.waits limit 1) as holds
    cross join lateral (
        select count(*) from (
            select from queue q where q.subscription_id = s.id and q.draining and q.due_at < 'infinity' limit $2) as few
    ) as on_their_way
),
-- Not locked here: a batch is locked from its first row on, by whoever comes first.
oldest as materialized (
    select c.partner_id, c.delivery_id, c.event_id, c.batch_id
    from active a cross join lateral (
        select q.partner_id, q.delivery_id, q.event_id, q.batch_id
        from queue q
        where q.subscription_id = a.subscription_id and q.due_at = 'infinity' and not q.waits
        order by q.event_id
        limit least($2 - a.on_their_way, greatest($1 / nullif((select count(*) from active where on_their_way < $2), 0), 1))
    ) as c
    limit $1
),
placed as materialized (
    select o.*, row_number() over (order by o.event_id, o.delivery_id) as place from oldest o
),
single as materialized (
    select p.partner_id, p.delivery_id, p.place
    from placed p cross join lateral (
        select from queue q
        where q.partner_id = p.partner_id and q.delivery_id = p.delivery_id and q.due_at = 'infinity' and q.batch_id is null
        limit 1 for update skip locked) as own
    where p.batch_id is null
),
first as materialized (
    select b.batch_id, b.place
    from (select batch_id, min(place) as place from placed where batch_id is not null group by batch_id) as b
    cross join lateral (
        select q.partner_id, q.delivery_id from queue q
        -- Not "where not waits", which would allow for an index of all batches that are due.
        where q.batch_id = any (array[b.batch_id]) order by q.waits, q.delivery_id limit 1) as f
    cross join lateral (
        select from queue q
        where q.partner_id = f.partner_id and q.delivery_id = f.delivery_id and q.due_at = 'infinity'
        limit 1 for update skip locked) as own
),
together as materialized (
    select f.batch_id, f.place, m.partner_id, m.delivery_id
    from first f cross join lateral (
        select q.partner_id, q.delivery_id from queue q where q.batch_id = any (array[f.batch_id]) for update skip locked) as m
),
whole as materialized (
    select t.batch_id from (select batch_id, count(*) as deliveries from together group by batch_id) as t
    where t.deliveries = (select count(*) from queue q where q.batch_id = t.batch_id)
),
due as (
    select s.partner_id, s.delivery_id, s.place from single s
    union all
    select t.partner_id, t.delivery_id, t.place from together t join whole w on w.batch_id = t.batch_id
),
moved as (
    update queue q set due_at = herald_now() + d.place * interval '1 microsecond', draining = true
    from due d
    where q.partner_id = any (array[d.partner_id]) and q.delivery_id between d.delivery_id and d.delivery_id and q.due_at = 'infinity'
    returning q.delivery_id
)
select (select count(*) from moved) as moved, exists (select from active) as unfinished
