-- Who takes events of each of the types $2 of the partners $1, with the partner's version at that moment. A row for each route, and one without
-- a subscription for what nobody takes. Written so that each is looked up in the index, see docs/decisions/0027.
select asked.number, coalesce(v.version, 0) as version, r.subscription_id, r.campaign_names, r.state <> 'active' as holds,
       -- No other surface has batches, and for the others the callback need not be looked at.
       r.surface = 'notifications' and (select c.batch_size > 1 from callbacks c where c.id = r.callback_id) as gathers
from unnest($1::uuid[], $2::text[]) with ordinality as asked (partner_id, event_type, number)
left join lateral (select version from matching_versions where partner_id = asked.partner_id limit 1) v on true
left join lateral (
    select t.subscription_id, t.campaign_names, s.state, s.surface, s.callback_id
    from subscription_event_types t
    -- Other indexes hold the id as well, but not in its order.
    cross join lateral (select state, surface, callback_id from subscriptions
                        where id between t.subscription_id and t.subscription_id order by id limit 1) s
    where t.partner_id = asked.partner_id and t.event_type = asked.event_type and s.state <> 'deleted'
    offset 0) r on true
order by asked.number, r.subscription_id
