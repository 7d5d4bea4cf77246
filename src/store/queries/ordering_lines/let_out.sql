-- Lets out the next in each of these lines in which nobody is first. Two that do so at once choose the same, and the second changes nothing.
update queue q set waits = false, due_at = case
    when q.batch_id is not null then q.due_at when s.state in ('paused', 'disabled') then 'infinity' else herald_now() end
from unnest($1::uuid[], $2::bigint[]) as l (subscription_id, line)
join subscriptions s on s.id = l.subscription_id
cross join lateral (
    select n.partner_id, n.delivery_id from queue n
    where n.partner_id = s.partner_id and n.subscription_id = l.subscription_id and n.line = l.line
    order by n.place limit 1) next
where q.partner_id = any (array[next.partner_id]) and q.delivery_id between next.delivery_id and next.delivery_id and q.waits
