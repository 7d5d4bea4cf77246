-- Records deliveries that arrived, as nearly all do: what finish.sql does for them, without its parts for all that is rare. It leaves alone, and
-- names in its answer, what needs those parts: what this node no longer holds, and what has an ordering key, whose end lets out the next.
-- An attempt's id is given without its first 48 bits, which are the millisecond at which it began by database time; see finish.sql.
with told as materialized (
    select * from unnest($2::uuid[], $3::uuid[], $4::int[], $5::text[], $6::uuid[], $7::uuid[], $8::text[], $9::int[], $10::bigint[],
                         $11::int[], $12::bytea[], $13::text[])
        as t (partner_id, delivery_id, epoch, attempt_id_rest, event_id, subscription_id, event_type, status, started_ago_ms, latency_ms,
              response, detail)
),
-- What the queue is joined with, kept narrow: rows that are joined for a DELETE are copied whole.
held as materialized (
    select partner_id, delivery_id, epoch from told
),
ended as (
    delete from queue q using held h
    where q.partner_id = h.partner_id and q.delivery_id = h.delivery_id and q.lease_owner = $1 and q.lease_epoch = h.epoch
      and q.line is null
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
            then array(select delivery_id from held except select delivery_id from ended)
            else '{}' end
