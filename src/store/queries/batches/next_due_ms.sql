-- Milliseconds until a batch is due again, or until one that is not full has lingered for $1 milliseconds; what is of the subscriptions in $2 and
-- of the callbacks in $3 does not count. Null when there is nothing. What is due and goes alone does not count either: it may have to wait for
-- another such, whose end rings.
with recursive gathering as (
    (select q.subscription_id from queue q where q.batched and q.batch_id is null and not q.waits order by q.subscription_id limit 1)
    union all
    select (select q.subscription_id from queue q
            where q.batched and q.batch_id is null and not q.waits and q.subscription_id > g.subscription_id
            order by q.subscription_id limit 1)
    from gathering g where g.subscription_id is not null
),
excepted as materialized (
    select id from subscriptions where callback_id = any ($3) and state <> 'deleted' union all select unnest($2::uuid[])
),
moments as (
    (select q.due_at from queue q
     where q.batch_id is not null and not q.waits and q.due_at < 'infinity' and q.subscription_id not in (select id from excepted)
       and (q.crashes < 2 and (q.crashes = 0 or q.lease_owner is null) or q.due_at > herald_now())
     order by q.due_at limit 1)
    union all
    select oldest.due_at + make_interval(secs => $1 / 1000.0)
    from gathering g cross join lateral (
        select q.due_at from queue q
        where q.subscription_id = g.subscription_id and q.batched and q.batch_id is null and not q.waits and q.due_at < 'infinity'
        order by q.due_at limit 1) as oldest
    where g.subscription_id not in (select id from excepted)
)
select extract(epoch from min(due_at) - herald_now())::float8 * 1000 from moments
