-- How far one step of a replay looks: to the $4th attempt of partner $1 behind delivery $2 and before delivery $3. Null where there are fewer.
select delivery_id from attempts
where partner_id = $1 and delivery_id > $2 and delivery_id < $3
--{ rare
  and final_state in ('dead', 'cancelled', 'expired')
--}
order by delivery_id offset $4 - 1 limit 1
