-- What insert.sql brought about with these events, for $5 to go on with. Deliveries share their event's millisecond and so lie between two ids.
-- What $5 has claimed meanwhile is its own as well, but not by birth, which is under epoch 0, and is being sent already.
with bundled as materialized (
    select event_id, delivery_id, owner, bundle_id, bundle_size from bundled where owner = $5 and event_id = any ($2)
)
select d.delivery_id, d.owner = $5 and d.epoch = 0 as leased, d.waits, d.row_at, d.bundle_id, d.bundle_size
from unnest($1::uuid[], $2::uuid[], $3::uuid[], $4::uuid[]) as asked (partner_id, event_id, first_delivery, last_delivery)
join events e on e.id = asked.event_id and e.partner_id = asked.partner_id
left join lateral (
    select q.delivery_id, q.lease_owner as owner, q.lease_epoch as epoch, q.waits, q.ctid as row_at, null::uuid as bundle_id, null::int as bundle_size
    from queue q
    where q.partner_id = asked.partner_id and q.delivery_id between asked.first_delivery and asked.last_delivery
      and q.event_id = asked.event_id
    union all
    select b.delivery_id, b.owner, 0, false, null, b.bundle_id, b.bundle_size from bundled b where b.event_id = asked.event_id) d on true
