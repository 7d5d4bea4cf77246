-- How far back a page may look that is narrowed by what no index holds: to the $4th delivery of partner $1 before $2, in the queue or in the
-- history, whichever comes first on the way back. Null where there are fewer. $3 is the state that is asked for, if one is.
select greatest(
    case when $3::text is null or $3 in ('pending', 'held')
         then (select delivery_id from queue where partner_id = $1 and delivery_id < $2 order by delivery_id desc offset $4 - 1 limit 1) end,
    case when $3 is null or $3 = 'delivered'
         then (select delivery_id from attempts where partner_id = $1 and delivery_id < $2 order by delivery_id desc offset $4 - 1 limit 1)
         when $3 in ('dead', 'cancelled', 'expired')
         then (select delivery_id from attempts
               where partner_id = $1 and delivery_id < $2 and final_state in ('dead', 'cancelled', 'expired')
               order by delivery_id desc offset $4 - 1 limit 1) end)
