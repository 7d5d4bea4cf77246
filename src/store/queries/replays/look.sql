-- The next deliveries of a replay, oldest first: those of partner $1 behind $2, before $3 and no further than $4 whose last final attempt left them
-- in state $5, and that are not queued again already. $6 subscriptions (inside) and $7 event type narrow where they are there; tests, of
-- type $9, were for once, and are left out unless they are asked for. What ended otherwise than by arriving has an index of its own ("rare").
select a.delivery_id, a.event_id, a.subscription_id
from attempts a
where a.partner_id = $1 and a.delivery_id > $2 and a.delivery_id < $3 and a.delivery_id <= $4 and a.final_state = $5
--{ rare
  and a.final_state in ('dead', 'cancelled', 'expired')
--}
  and ($6::uuid[] is null or a.subscription_id = any ($6))
  and (a.event_type = $7 or $7::text is null and a.event_type <> $9)
  -- One by one and by their keys, whatever the planner believes (docs/decisions/0027).
  and (select true from queue q where q.partner_id = a.partner_id and q.delivery_id = a.delivery_id limit 1) is null
  and (select true from attempts later
       where later.partner_id = a.partner_id and later.delivery_id = a.delivery_id and later.id > a.id and later.final_state is not null
       order by later.id limit 1) is null
order by a.delivery_id
limit $8
