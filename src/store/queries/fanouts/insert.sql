-- Chunks of 1,000 subscriptions of an event. Their deliveries fall due 50 microseconds apart.
insert into fanouts (partner_id, event_id, chunk, subscriptions, due_from)
select partner_id, event_id, place / 1000, array_agg(id order by place), herald_now() + place / 1000 * 1000 * interval '50 microseconds'
from (select partner_id, event_id, id, row_number() over (partition by event_id order by number) - 1 as place
      from unnest($1::uuid[], $2::uuid[], $3::uuid[]) with ordinality as matched (partner_id, event_id, id, number)) as placed
group by partner_id, event_id, place / 1000
