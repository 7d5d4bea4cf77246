-- Records deliveries that arrived, as nearly all do: what finish.sql does for them, without its parts for all that is rare. It leaves alone, and
-- names in its answer, what needs those parts: what this node no longer holds, and what has an ordering key, whose end lets out the next.
-- An attempt's id begins with the millisecond at which it began by database time. It was put together by what the server takes for the time,
-- $14; where that is not about right, or unknown, it is put together anew.
--
-- Section "rows" is for those with a row of the queue. Each is looked up where it was last seen. One that has moved since is left alone as well:
-- it is found by its key there.
--
-- Section "bundled" is for those that stand in bundles: they arrived if their bundle is still there and this node's, which is locked against being
-- taken apart. That none of them ended before is for the caller to know. $16 are the bundles of which nothing is left after that.
with told as materialized (
    select *
--{ rows
    from unnest($2::uuid[], $3::uuid[], $4::int[], $5::uuid[], $6::uuid[], $7::uuid[], $8::text[], $9::int[], $10::bigint[],
                $11::int[], $12::bytea[], $13::text[], $15::tid[])
        with ordinality
        as t (partner_id, delivery_id, epoch, attempt_id, event_id, subscription_id, event_type, status, started_ago_ms, latency_ms,
              response, detail, row_at, place)
--}
--{ bundled
    from unnest($2::uuid[], $3::uuid[], $4::int[], $5::uuid[], $6::uuid[], $7::uuid[], $8::text[], $9::int[], $10::bigint[],
                $11::int[], $12::bytea[], $13::text[], $15::uuid[])
        with ordinality
        as t (partner_id, delivery_id, epoch, attempt_id, event_id, subscription_id, event_type, status, started_ago_ms, latency_ms,
              response, detail, bundle_id, place)
--}
),
--{ rows
ended as (
    delete from queue q
    where q.ctid = any (array(select row_at from told)) and q.lease_owner = $1 and q.line is null
      and ((q.partner_id, q.delivery_id, q.lease_epoch) in (select partner_id, delivery_id, epoch from told)) is true
    returning q.delivery_id, q.lease_epoch as epoch
),
--}
--{ bundled
used_up as (
    delete from bundles where id = any ($16) and owner = $1 returning id
),
locked as materialized (
    select id from bundles where id = any ($15) and owner = $1 and (id = any ($16)) is not true order by id for key share
),
ended as materialized (
    select t.delivery_id, t.epoch from told t where t.bundle_id in (select id from used_up union all select id from locked)
),
--}
recorded as (
    insert into attempts (partner_id, delivery_id, id, event_id, subscription_id, event_type, outcome, final_state, late, status,
                          started_at, latency_ms, response, detail)
    select t.partner_id, t.delivery_id,
           case when $14 between herald_now() - interval '1 second' and herald_now() + interval '1 second' then t.attempt_id
                else (lpad(to_hex(floor(extract(epoch from herald_now()) * 1000)::bigint - t.started_ago_ms), 12, '0')
                      || right(replace(t.attempt_id::text, '-', ''), 20))::uuid end,
           t.event_id, t.subscription_id, t.event_type, 'delivered', 'delivered', false, t.status,
           herald_now() - t.started_ago_ms * interval '1 ms', t.latency_ms, t.response, t.detail
    -- A node that lost a lease to itself may tell of both at once.
    from told t join ended e on (e.delivery_id, e.epoch) = (t.delivery_id, t.epoch)
)
select herald_now() as now,
       case when (select count(*) from ended) < cardinality($3::uuid[])
            then array(select place from told where (delivery_id, epoch) not in (select delivery_id, epoch from ended))
            else '{}' end as left_alone
