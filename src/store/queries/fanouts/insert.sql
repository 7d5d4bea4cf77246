-- Chunks of 1,000 subscriptions. Their deliveries fall due 50 microseconds apart.
insert into fanouts (partner_id, event_id, chunk, subscriptions, due_from)
select $1, $2, place / 1000, array_agg(id order by place), herald_now() + place / 1000 * 1000 * interval '50 microseconds'
from (select id, number - 1 as place from unnest($3::uuid[]) with ordinality as matched (id, number)) as placed
group by place / 1000
