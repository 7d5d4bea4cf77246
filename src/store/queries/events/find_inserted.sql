-- What insert.sql brought about with these events, for $5 to go on with. Deliveries share their event's millisecond and so lie between two ids.
-- What $5 has claimed meanwhile is its own as well, but not by birth, which is under epoch 0, and is being sent already.
select q.delivery_id, q.lease_owner = $5 and q.lease_epoch = 0 as leased, q.waits, q.ctid as row_at
from unnest($1::uuid[], $2::uuid[], $3::uuid[], $4::uuid[]) as asked (partner_id, event_id, first_delivery, last_delivery)
join events e on e.id = asked.event_id and e.partner_id = asked.partner_id
left join queue q on q.partner_id = asked.partner_id and q.delivery_id between asked.first_delivery and asked.last_delivery
    and q.event_id = asked.event_id
