-- Gives members ($2 to $6) of bundles of $1 the queue rows with which they would have begun, and deletes the bundles $7, of which nothing is left
-- after that. A bundle that is not there any more was taken apart: its members have their rows.
with used_up as (
    delete from bundles where id = any ($7) and owner = $1 returning id, due_at
),
locked as materialized (
    select id, due_at from bundles where id = any ($6) and owner = $1 and (id = any ($7)) is not true order by id for key share
),
held as (select * from used_up union all select * from locked)
insert into queue (partner_id, delivery_id, event_id, subscription_id, due_at, lease_owner)
select m.partner_id, m.delivery_id, m.event_id, m.subscription_id, h.due_at, $1
from unnest($2::uuid[], $3::uuid[], $4::uuid[], $5::uuid[], $6::uuid[]) as m (partner_id, delivery_id, event_id, subscription_id, bundle_id)
join held h on h.id = m.bundle_id
on conflict (partner_id, delivery_id) do nothing
