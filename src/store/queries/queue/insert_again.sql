-- Queues finished deliveries of partner $1 again under their own ids, with a fresh budget: held if their subscription is, else due 2 milliseconds
-- after each other. Left out is what is unfinished, and what has no subscription or no event any more.
--
-- Their epochs begin at the seconds since 2020, so that nobody who leased one in an earlier life still fits: a row's epoch rises more slowly
-- than that.
insert into queue (partner_id, delivery_id, event_id, subscription_id, lease_epoch, due_at)
select $1, f.delivery_id, f.event_id, s.id, extract(epoch from herald_now() - timestamptz '2020-01-01Z')::int,
       case when s.state = 'active' then herald_now() + (f.place - 1) * interval '2 milliseconds' else 'infinity' end
from unnest($2::uuid[], $3::uuid[], $4::uuid[]) with ordinality as f (delivery_id, event_id, subscription_id, place)
-- One by one, or all of a table is read by a plan that takes it to be short.
cross join lateral (select id, state from subscriptions where partner_id = $1 and id = f.subscription_id and state <> 'deleted' limit 1) s
cross join lateral (select from events where id = f.event_id and partner_id = $1 limit 1) e
where f.delivery_id <> all (array(select delivery_id from bundled where partner_id = $1 and delivery_id = any ($2)))
order by f.delivery_id
on conflict (partner_id, delivery_id) do nothing
