-- Records deliveries that arrived, as nearly all do: what finish.sql does for them, without its parts for all that is rare. It leaves alone, and
-- names in its answer, what needs those parts: what this node no longer holds, and what has an ordering key, whose end lets out the next.
-- An attempt's id is given without its first 48 bits, which are the millisecond at which it began by database time; see finish.sql.
with told as materialized (
    select * from unnest($2::uuid[], $3::uuid[], $4::int[], $5::text[], $6::uuid[], $7::uuid[], $8::text[], $9::int[], $10::bigint[],
                         $11::int[], $12::bytea[], $13::text[])
        as t (partner_id, delivery_id, epoch, attempt_id_rest, event_id, subscription_id, event_type, status, started_ago_ms, latency_ms,
              response, detail)
),
-- Each is looked up by its key, whatever the planner believes of the queue: a plan that was made while it was empty would read all of it, which
-- under a pinned snapshot is a hundred thousand entries of rows that are gone.
found as materialized (
    select q.place from told t cross join lateral (
        select ctid as place from queue
        where partner_id = t.partner_id and delivery_id = t.delivery_id and lease_owner = $1 and lease_epoch = t.epoch and line is null
        limit 1) q
),
-- The conditions on the lease again, for a row that changes while this statement runs.
ended as (
    delete from queue q
    where q.ctid = any (array(select place from found)) and q.lease_owner = $1
      and ((q.delivery_id, q.lease_epoch) in (select delivery_id, epoch from told)) is true
    returning q.delivery_id
),
recorded as (
    insert into attempts (partner_id, delivery_id, id, event_id, subscription_id, event_type, outcome, final_state, late, status,
                          started_at, latency_ms, response, detail)
    select t.partner_id, t.delivery_id,
           (lpad(to_hex(floor(extract(epoch from herald_now()) * 1000)::bigint - t.started_ago_ms), 12, '0') || t.attempt_id_rest)::uuid,
           t.event_id, t.subscription_id, t.event_type, 'delivered', 'delivered', false, t.status,
           herald_now() - t.started_ago_ms * interval '1 ms', t.latency_ms, t.response, t.detail
    from told t join ended e on e.delivery_id = t.delivery_id
)
select case when (select count(*) from ended) < cardinality($3::uuid[])
            then array(select delivery_id from told except select delivery_id from ended)
            else '{}' end
