-- Has deliveries of subscription $1 that are from before $6, were never tried, and are put off, wait for $2 of what they would: the next $5 of them
-- behind $3 and $4, in the order in which they are due. Answers with where to go on behind the last of them.
--
-- Of a batch all rows move, or its first could be left behind: who holds the first of those that wait for nobody takes the others, and moves them only
-- if it got them all (as batches/claim.sql does). Batches that were formed since are put off by what holds now. What is moved is due before all
-- that is still to come here, so that a batch of which some rows are further on is not moved twice. What somebody else holds is on its way, and
-- keeps its time.
with put_off as materialized (
    select partner_id, delivery_id, batch_id, due_at from queue
    where subscription_id = $1 and lease_owner is null and attempts = 0 and due_at < 'infinity' and (not batched or batch_id is not null)
      and delivery_id < herald_uuid7_floor($6)
      and (due_at, delivery_id) > (coalesce($3, herald_now()), coalesce($4, uuid '00000000-0000-0000-0000-000000000000'))
    order by due_at, delivery_id limit $5
),
single as materialized (
    select p.partner_id, p.delivery_id
    from put_off p cross join lateral (
        select from queue q
        where q.partner_id = p.partner_id and q.delivery_id = p.delivery_id
          and q.batch_id is null and q.lease_owner is null and q.attempts = 0 and q.due_at < 'infinity'
        limit 1 for update skip locked) as own
    where p.batch_id is null
),
first as materialized (
    select b.batch_id
    from (select distinct batch_id from put_off where batch_id < herald_uuid7_floor($6)) as b
    cross join lateral (
        select q.partner_id, q.delivery_id from queue q
        -- Not "where not waits", which would allow for an index of all batches that are due.
        where q.batch_id = any (array[b.batch_id]) order by q.waits, q.delivery_id limit 1) as f
    cross join lateral (
        select from queue q
        where q.partner_id = f.partner_id and q.delivery_id = f.delivery_id
          and q.batch_id = b.batch_id and q.lease_owner is null and q.attempts = 0 and q.due_at < 'infinity'
        limit 1 for update skip locked) as own
),
together as materialized (
    select f.batch_id, m.partner_id, m.delivery_id
    from first f cross join lateral (
        select q.partner_id, q.delivery_id from queue q where q.batch_id = any (array[f.batch_id]) for update skip locked) as m
),
whole as materialized (
    select t.batch_id from (select batch_id, count(*) as deliveries from together group by batch_id) as t
    where t.deliveries = (select count(*) from queue q where q.batch_id = t.batch_id)
),
moving as (
    select partner_id, delivery_id from single
    union all
    select t.partner_id, t.delivery_id from together t join whole w on w.batch_id = t.batch_id
),
moved as (
    update queue q set due_at = herald_now() + greatest(q.due_at - herald_now(), interval '0') * $2
    from moving m
    where q.partner_id = any (array[m.partner_id]) and q.delivery_id between m.delivery_id and m.delivery_id
      and q.lease_owner is null and q.due_at < 'infinity'
)
select due_at, delivery_id from put_off order by due_at desc, delivery_id desc limit 1
