-- Forgets those of these lines in which nobody stands, if they are still as they were seen.
delete from ordering_lines l using unnest($1::uuid[], $2::bigint[], $3::bigint[], $4::int[]) as seen (subscription_id, line, last_place, unfinished)
where l.subscription_id = seen.subscription_id and l.line = seen.line
  and l.last_place = seen.last_place and l.unfinished = seen.unfinished
  and l.partner_id = (select partner_id from subscriptions s where s.id = seen.subscription_id)
  and not exists (
    select from queue q
    where q.partner_id = l.partner_id and q.subscription_id = l.subscription_id and q.line = l.line)
