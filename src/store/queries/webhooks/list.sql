-- A partner's living subscriptions, oldest first. Every filter is optional: $2 external keys, $3 event, $4 account ($6 its digest).
--
-- The narrowest filter that is given says where they are looked for; all of them are judged by all filters. In `chosen` they stand in the order of
-- their ids, so that no more are read than are taken, or are as few as were asked for.
--
-- What a unique index has is asked for by `(select $1)`, of which the planner knows no more than that it is some partner. Of one that is new to the
-- statistics it would believe that there is a row or none, whatever index it takes, and read all that the partner has.
with chosen as (
--{ by_key
    select own.id from (select distinct key from unnest($2::text[]) as key) as wanted
    cross join lateral (
        select id from subscriptions
        where partner_id = (select $1) and surface = 'webhooks' and external_key = wanted.key and state <> 'deleted' limit 1) as own
--}
--{ by_event
    select subscription_id as id from subscription_event_types where partner_id = $1 and event_type = $3
--}
--{ by_event_and_account
    -- An account is subscribed to an event once, and is the first in the order of the digests that is not before its own, or is not there: asked for
    -- by that alone it may be looked for among all who take the event.
    select nearest.id from (
        select subscription_id as id, exclusive_in from subscription_event_types
        where partner_id = (select $1) and surface = 'webhooks' and event_type = (select $3) and exclusive_in >= $6
        order by exclusive_in limit 1) as nearest
    where nearest.exclusive_in = $6
--}
--{ by_account
    select subscription_id as id from webhooks where partner_id = $1 and account_id = $4
--}
--{ by_partner
    select id from subscriptions where partner_id = $1 and surface = 'webhooks' and state <> 'deleted'
--}
)
select {columns}, w.name, w.account_id, w.recipient_key, c.credentials
from chosen
-- One by one and by their keys, whatever the planner believes (docs/decisions/0027).
cross join lateral (select * from subscriptions where id = chosen.id limit 1) s
cross join lateral (select * from webhooks where subscription_id = s.id limit 1) w
cross join lateral (select * from callbacks where id = s.callback_id limit 1) c
where s.partner_id = $1 and s.surface = 'webhooks' and s.state <> 'deleted'
  and ($2::text[] is null or s.external_key = any ($2))
  and ($3::text is null or (select true from subscription_event_types t
       where t.partner_id = $1 and t.event_type = $3 and t.subscription_id = s.id limit 1))
  and ($4::text is null or w.account_id = $4)
order by chosen.id limit $5
